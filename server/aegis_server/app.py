"""The one place that constructs: from settings to a serving control plane.

Everything is built here, in this order, and taken down in the reverse one. Rooms receive what they
need and never look for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
from prometheus_client import REGISTRY, CollectorRegistry

from aegis.channel import Identity
from aegis.following import Following
from aegis.serving.auditlog import AuditLog
from aegis.serving.auditlog.service import AuditService
from aegis.serving.checkpointing.parts import Keeping
from aegis.serving.checkpointing.peers import PeerLog
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Doors, by_certificate
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.revocation import Revocations
from aegis.serving.trust_records import record_trust
from aegis.serving.trusting import LiveTrust
from aegis.trust import load_private_key
from aegis.v1 import (
    audit_pb2_grpc,
    execution_pb2_grpc,
    identity_pb2_grpc,
    policy_pb2_grpc,
    review_pb2_grpc,
    service_account_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    training_pb2_grpc,
    user_pb2_grpc,
)
from aegis_server.access import DOMAIN, SERVICES, Access
from aegis_server.blobs import BlobStore
from aegis_server.execution.actions import Actions, Names
from aegis_server.execution.dispatch import Dispatch
from aegis_server.execution.service import ExecutionService
from aegis_server.execution.settlement import Settlement
from aegis_server.identity.authentication import Authentication
from aegis_server.identity.buckets import Buckets, LocalBuckets, RedisBuckets
from aegis_server.identity.directory import Directory
from aegis_server.identity.limits import Limits, parse_limits
from aegis_server.identity.machines.accounts import ServiceAccounts
from aegis_server.identity.machines.keys import ApiKeys
from aegis_server.identity.machines.rights import Rights
from aegis_server.identity.machines.service import ServiceAccountService
from aegis_server.identity.machines.verification import KeyVerification, Uses
from aegis_server.identity.openid.provider import Provider
from aegis_server.identity.openid.settings import OpenIdSettings
from aegis_server.identity.openid.verification import OpenIdVerification
from aegis_server.identity.people.accounts import Accounts
from aegis_server.identity.people.bootstrap import Bootstrap
from aegis_server.identity.people.mail import Outbox, mailer
from aegis_server.identity.people.passwords import Passwords
from aegis_server.identity.people.resets import Resets
from aegis_server.identity.people.service import SessionService, UserService
from aegis_server.identity.people.sessions import Sessions
from aegis_server.identity.register import Register
from aegis_server.identity.service import IdentityService
from aegis_server.identity.throttle import AttemptThrottle
from aegis_server.identity.tokens import AccessTokens, TokenKeys
from aegis_server.policy.cache import DecisionCache
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.policy.service import PolicyService
from aegis_server.review.rounds import Rounds
from aegis_server.review.service import ReviewService
from aegis_server.review.updates import Updates
from aegis_server.settings import Settings
from aegis_server.training.budget import Budget
from aegis_server.training.coordinators import Coordinators, CoordinatorSettings
from aegis_server.training.progress import Progress
from aegis_server.training.runs import Runs
from aegis_server.training.service import CoordinatorService, TrainingService
from aegis_server.training.states import Changes
from aegis_server.workers import Workers

LOG_ID = "aegis-server"
_EXECUTOR_LOG_ID = "aegis-executor"
SCHEMA = "aegis"
SERVER = "server:aegis"

# A rule file of 4 MiB, a thousand questions; everything else is far smaller.
_LARGER = {
    "/aegis.v1.PolicyService/ImportPolicy": 4 * 1024 * 1024 + 64 * 1024,
    "/aegis.v1.PolicyService/BatchEvaluate": 4 * 1024 * 1024,
}
_DRAIN_SECONDS = 10.0
_PROBE_SECONDS = 1.0

Clock = Callable[[], datetime]
Part = Coroutine[Any, Any, None]


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A serving control plane: where it listens, and what must run while it does.

    `parts` end in reverse order: coordinators, which call us, before the port, and the audit log,
    without which no call comes to its end, after it.
    """

    address: str
    token_address: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class _Base:
    """What every room stands on."""

    settings: Settings
    database: Database
    audit: AuditLog
    directory: Directory
    access_tokens: AccessTokens | None
    key_uses: Uses
    provider: Provider | None
    buckets: Buckets
    trust: LiveTrust
    decisions: Decisions
    deeds: Deeds
    blobs: BlobStore
    clock: Clock


def utc_now() -> datetime:
    """The clock of production."""
    return datetime.now(UTC)


@asynccontextmanager
async def assemble(
    settings: Settings, *, clock: Clock = utc_now, registry: CollectorRegistry = REGISTRY
) -> AsyncIterator[ControlPlane]:
    """Builds the control plane and serves; the caller runs `parts` until it wants the end.

    Raises what an unreadable file, an unreachable database or a taken address raise.
    """
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url, application="aegis-server")
        stack.push_async_callback(database.close)
        await database.open()
        audit = AuditLog(database, log_id=LOG_ID, clock=clock)
        await audit.catch_up()
        cache = _cache(settings, registry)
        if cache is not None:
            stack.push_async_callback(cache.close)
        directory = Directory(database, clock=clock)
        await directory.open()
        decisions = Decisions(
            database,
            cache=cache,
            clock=clock,
            registry=registry,
            held_roles=directory.held_roles,
        )
        base = _Base(
            settings=settings,
            database=database,
            audit=audit,
            directory=directory,
            access_tokens=_access_tokens(settings, clock),
            key_uses=Uses(database, clock=clock),
            provider=_provider(settings),
            buckets=_buckets(settings, stack),
            trust=LiveTrust(settings.trust),
            decisions=decisions,
            deeds=Deeds(),
            blobs=BlobStore(settings.data_dir),
            clock=clock,
        )
        revisions = Revisions(database, audit=audit, decisions=decisions, clock=clock)
        await revisions.ensure_first()
        await decisions.open()
        port, revoking = _port(base, registry)
        policy = PolicyService(decisions=decisions, revisions=revisions, audit=audit)
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(policy, port.server)
        us = Identity(settings.tls.certificate, settings.tls.key, settings.tls.roots)
        executor = Following(settings.executor_address, us, retries=False)
        stack.push_async_callback(executor.close)
        around = _keep_the_record(base, port, us, executor, stack, registry)
        people = await _people(base, port, stack)
        settlement = _execution(base, port, executor)
        progress, changes = _training_and_review(base, port, stack)
        stack.push_async_callback(base.deeds.drain)
        stack.push_async_callback(port.close, _DRAIN_SECONDS)
        address = await port.open(settings.listen, settings.token_listen)
        coordinators = Coordinators(
            database,
            progress,
            _coordinator_settings(settings),
            clock=clock,
            changes=changes,
        )
        parts = [audit.run(), *around, decisions.run(), directory.run(), base.key_uses.run()]
        parts += [each.run() for each in people]
        if base.provider is not None:
            parts.append(base.provider.run())
        if cache is not None:
            parts.append(cache.run())
        parts += [
            base.trust.run(),
            record_trust(base.trust, base.audit, actor=SERVER),
            revoking(),
            _attend(base, port),
            settlement.run(),
            coordinators.run(_reachable(address)),
            _watch_health(base, port),
        ]
        yield ControlPlane(address, port.token_address, tuple(parts))


def _cache(settings: Settings, registry: CollectorRegistry) -> DecisionCache | None:
    if settings.redis_url is None:
        return None
    key = settings.cache_key.read_bytes()
    return DecisionCache(settings.redis_url, key=key, registry=registry)


def _access_tokens(settings: Settings, clock: Clock) -> AccessTokens | None:
    if settings.token_keys is None:
        return None
    return AccessTokens(
        TokenKeys(settings.token_keys),
        issuer=f"aegis://{settings.trust_domain}",
        audience=settings.audience,
        clock=clock,
    )


def _provider(settings: Settings) -> Provider | None:
    return Provider(OpenIdSettings.load(settings.oidc)) if settings.oidc is not None else None


def _openid(base: _Base) -> OpenIdVerification | None:
    if base.provider is None:
        return None
    return OpenIdVerification(base.provider, base.directory, base.audit, clock=base.clock)


def _port(base: _Base, registry: CollectorRegistry) -> tuple[Port, Callable[[], Part]]:
    """Returns the port, and what must run so that revoked certificates end what they opened."""
    revocations = Revocations(base.settings.tls)
    doors = Doors(
        admit=Access(base.decisions, base.audit).admit,
        metrics=CallMetrics(registry),
        authenticate=Authentication(
            base.directory,
            certificates=revocations.guard(by_certificate(base.settings.trust_domain)),
            access_tokens=base.access_tokens,
            api_keys=KeyVerification(base.directory, base.key_uses, clock=base.clock),
            openid=_openid(base),
        ),
        limit=Limits(base.buckets, registry=registry, limits=parse_limits(base.settings.limits)),
        larger=_LARGER,
    )
    base.directory.on_change(doors.leashes.expel)
    port = Port(
        doors=doors,
        tls=base.settings.tls,
        services=SERVICES,
        reflect=base.settings.development,
    )
    return port, lambda: revocations.run(doors.leashes.expel)


def _buckets(settings: Settings, stack: AsyncExitStack) -> Buckets:
    if settings.redis_url is None:
        return LocalBuckets()
    buckets = RedisBuckets(settings.redis_url)
    stack.push_async_callback(buckets.close)
    return buckets


async def _people(base: _Base, port: Port, stack: AsyncExitStack) -> list[Outbox | Sessions]:
    """Returns what must run while we serve people."""
    settings = base.settings
    key = settings.cache_key.read_bytes()
    register = Register(
        base.database,
        base.audit,
        base.directory,
        clock=base.clock,
        address_key=hmac.digest(key, b"aegis identity: addresses", hashlib.sha256),
    )
    outbox = Outbox(mailer(settings.mail, settings.mail_password) if settings.mail else None)
    passwords = Passwords()
    stack.callback(passwords.close)
    throttle = AttemptThrottle(
        base.buckets,
        key=hmac.digest(key, b"aegis identity: devices", hashlib.sha256),
        clock=base.clock,
    )
    resets = Resets(register, passwords, throttle, outbox)
    user_pb2_grpc.add_UserServiceServicer_to_server(
        UserService(Accounts(register, outbox), resets, base.deeds), port.server
    )
    rights = Rights(base.decisions)
    service_account_pb2_grpc.add_ServiceAccountServiceServicer_to_server(
        ServiceAccountService(
            ServiceAccounts(register, rights), ApiKeys(register, rights), base.deeds
        ),
        port.server,
    )
    if base.access_tokens is None:
        return [outbox]
    sessions = Sessions(register, passwords, base.access_tokens, throttle)
    bootstrap = Bootstrap(
        register, passwords, sessions, throttle, file=settings.data_dir / "bootstrap-token"
    )
    await bootstrap.prepare()
    session_pb2_grpc.add_SessionServiceServicer_to_server(
        SessionService(
            bootstrap=bootstrap,
            sessions=sessions,
            resets=resets,
            deeds=base.deeds,
            identity_provider=_identity_provider(base),
        ),
        port.server,
    )
    return [outbox, sessions]


def _identity_provider(base: _Base) -> session_pb2.IdentityProvider | None:
    if base.provider is None:
        return None
    settings = base.provider.settings
    return session_pb2.IdentityProvider(
        issuer=settings.issuer, client_id=settings.client_id, scopes=settings.scopes
    )


def _keep_the_record(
    base: _Base,
    port: Port,
    us: Identity,
    executor: grpc.aio.Channel,
    stack: AsyncExitStack,
    registry: CollectorRegistry,
) -> list[Part]:
    """Serves the audit log; returns what must run around it."""
    settings, witness = base.settings, None
    if settings.witness_address is not None:
        witness = Following(settings.witness_address, us, retries=False)
        stack.push_async_callback(witness.close)
    keeping = Keeping(
        key=settings.audit_key,
        sinks=settings.audit_sinks,
        witness=witness,
        trust=lambda: base.trust,
    )
    kept = keeping.checkpoints(base.audit, clock=base.clock, schema=SCHEMA)
    peer = PeerLog(base.audit, kept, lambda: base.trust, _EXECUTOR_LOG_ID)
    record = AuditService(
        base.audit, kept, others={_EXECUTOR_LOG_ID: audit_pb2_grpc.AuditServiceStub(executor)}
    )
    audit_pb2_grpc.add_AuditServiceServicer_to_server(record, port.server)
    parts = keeping.parts(base.audit, kept, clock=base.clock, registry=registry)
    return [*parts, peer.exchange(Dispatch(executor).exchange_checkpoints)]


def _execution(base: _Base, port: Port, executor: grpc.aio.Channel) -> Settlement:
    settings = base.settings
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(
        IdentityService(base.trust, lambda subject: base.decisions.roles_of(subject, DOMAIN)),
        port.server,
    )
    dispatch = Dispatch(executor)
    settlement = Settlement(
        database=base.database,
        audit=base.audit,
        dispatch=dispatch,
        server=SERVER,
        clock=base.clock,
    )
    actions = Actions(
        database=base.database,
        audit=base.audit,
        decisions=base.decisions,
        dispatch=dispatch,
        settlement=settlement,
        trust=base.trust,
        decision_key=load_private_key(settings.decision_key),
        names=Names(audience=settings.audience, executor=settings.executor_name),
        clock=base.clock,
    )
    execution_pb2_grpc.add_ExecutionServiceServicer_to_server(
        ExecutionService(actions, base.deeds), port.server
    )
    return settlement


def _training_and_review(
    base: _Base, port: Port, stack: AsyncExitStack
) -> tuple[Progress, Changes]:
    changes = Changes()
    budget = Budget()
    runs = Runs(
        base.database,
        base.audit,
        base.decisions,
        clock=base.clock,
        changes=changes,
        budget=budget,
    )
    progress = Progress(
        base.database,
        base.audit,
        base.blobs,
        clock=base.clock,
        changes=changes,
        budget=budget,
    )
    training_pb2_grpc.add_TrainingServiceServicer_to_server(
        TrainingService(runs, base.deeds), port.server
    )
    training_pb2_grpc.add_CoordinatorServiceServicer_to_server(
        CoordinatorService(progress, base.deeds), port.server
    )
    # Spawn, because gRPC does not survive a fork; half of the cores, because training needs some.
    workers = Workers(max(1, (os.cpu_count() or 2) // 2))
    stack.callback(workers.close)
    updates = Updates(
        database=base.database,
        audit=base.audit,
        blobs=base.blobs,
        runs=progress,
        clock=base.clock,
    )
    rounds = Rounds(
        database=base.database,
        audit=base.audit,
        blobs=base.blobs,
        runs=progress,
        workers=workers,
        clock=base.clock,
    )
    review_pb2_grpc.add_ReviewServiceServicer_to_server(
        ReviewService(updates, rounds, base.deeds), port.server
    )
    return progress, changes


def _coordinator_settings(settings: Settings) -> CoordinatorSettings:
    folder = settings.data_dir / "coordinators"
    folder.mkdir(parents=True, exist_ok=True)
    return CoordinatorSettings(
        certificate=settings.coordinator_certificate,
        key=settings.coordinator_key,
        roots=settings.tls.roots,
        folder=folder,
    )


def _reachable(address: str) -> str:
    """Returns how coordinators, on this machine, call a port that may listen everywhere."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]") else address  # noqa: S104


async def _attend(base: _Base, port: Port) -> None:
    """Does nothing, until it is cancelled: then it lets calls and deeds come to their ends."""
    try:
        await asyncio.Event().wait()
    finally:
        await port.close(_DRAIN_SECONDS)
        await base.deeds.drain()


async def _watch_health(base: _Base, port: Port) -> None:
    """Says NOT_SERVING while Postgres is away or the newest policy cannot be used."""
    healthy = True
    while True:
        await asyncio.sleep(_PROBE_SECONDS)
        now = not (base.decisions.problem or base.directory.problem)
        if now != healthy:
            healthy = now
            await port.set_healthy(healthy)
