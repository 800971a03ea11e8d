"""The one place that constructs: from settings to a serving control plane.

Everything is built here, in this order, and taken down in the reverse one. Rooms receive what they
need and never look for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry

from aegis.channel import Identity, connect
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Doors, by_certificate
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.trust import TrustBundle, load_private_key
from aegis.v1 import (
    audit_pb2_grpc,
    execution_pb2_grpc,
    identity_pb2_grpc,
    policy_pb2_grpc,
    review_pb2_grpc,
    training_pb2_grpc,
)
from aegis_server.access import DOMAIN, SERVICES, Access
from aegis_server.audit.log import AuditLog
from aegis_server.audit.service import AuditService
from aegis_server.blobs import BlobStore
from aegis_server.execution.actions import Actions, Names
from aegis_server.execution.dispatch import Dispatch
from aegis_server.execution.service import ExecutionService
from aegis_server.execution.settlement import Settlement
from aegis_server.identity.service import IdentityService
from aegis_server.policy.cache import DecisionCache
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.policy.service import PolicyService
from aegis_server.review.rounds import Rounds
from aegis_server.review.service import ReviewService
from aegis_server.review.updates import Updates
from aegis_server.settings import Settings
from aegis_server.training.coordinators import Coordinators, CoordinatorSettings
from aegis_server.training.progress import Progress
from aegis_server.training.runs import Runs
from aegis_server.training.service import CoordinatorService, TrainingService
from aegis_server.training.states import Changes
from aegis_server.workers import Workers

LOG_ID = "aegis-server"
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
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class _Base:
    """What every room stands on."""

    settings: Settings
    database: Database
    audit: AuditLog
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
        cache = _cache(settings, registry)
        if cache is not None:
            stack.push_async_callback(cache.close)
        decisions = Decisions(database, cache=cache, clock=clock, registry=registry)
        base = _Base(
            settings, database, audit, decisions, Deeds(), BlobStore(settings.data_dir), clock
        )
        revisions = Revisions(database, audit=audit, decisions=decisions, clock=clock)
        await revisions.ensure_first()
        await decisions.open()
        port = _port(base, registry)
        policy = PolicyService(decisions=decisions, revisions=revisions, audit=audit)
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(policy, port.server)
        audit_pb2_grpc.add_AuditServiceServicer_to_server(
            AuditService(database, LOG_ID), port.server
        )
        settlement = _execution(base, port, stack)
        progress, changes = _training_and_review(base, port, stack)
        stack.push_async_callback(base.deeds.drain)
        stack.push_async_callback(port.close, _DRAIN_SECONDS)
        address = await port.open(settings.listen)
        coordinators = Coordinators(
            database,
            progress,
            _coordinator_settings(settings),
            clock=clock,
            changes=changes,
        )
        parts = [audit.run(), decisions.run()]
        if cache is not None:
            parts.append(cache.run())
        parts += [
            _attend(base, port),
            settlement.run(),
            coordinators.run(_reachable(address)),
            _watch_health(base, port),
        ]
        yield ControlPlane(address, tuple(parts))


def _cache(settings: Settings, registry: CollectorRegistry) -> DecisionCache | None:
    if settings.redis_url is None:
        return None
    key = settings.cache_key.read_bytes()
    return DecisionCache(settings.redis_url, key=key, registry=registry)


def _port(base: _Base, registry: CollectorRegistry) -> Port:
    return Port(
        doors=Doors(
            admit=Access(base.decisions, base.audit).admit,
            metrics=CallMetrics(registry),
            authenticate=by_certificate(base.settings.trust_domain),
            larger=_LARGER,
        ),
        tls=base.settings.tls,
        services=SERVICES,
        reflect=base.settings.development,
    )


def _execution(base: _Base, port: Port, stack: AsyncExitStack) -> Settlement:
    settings = base.settings
    trust = TrustBundle.load(settings.trust_bundle)
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(
        IdentityService(trust, lambda subject: base.decisions.roles_of(subject, DOMAIN)),
        port.server,
    )
    us = Identity(settings.tls.certificate, settings.tls.key, settings.tls.roots)
    channel = connect(settings.executor_address, us, retries=False)
    stack.push_async_callback(channel.close)
    dispatch = Dispatch(channel)
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
        trust=trust,
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
    runs = Runs(base.database, base.audit, base.decisions, clock=base.clock, changes=changes)
    progress = Progress(base.database, base.audit, base.blobs, clock=base.clock, changes=changes)
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
        now = not base.decisions.problem
        if now != healthy:
            healthy = now
            await port.set_healthy(healthy)
