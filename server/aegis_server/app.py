"""Composition: from settings to a serving control plane.

Everything is built here, on `foundation` and behind `entrance`, and taken down in the reverse
order. Rooms receive what they need and never look for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

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
from aegis.serving.port import Port
from aegis.serving.trust_records import last_recorded, record_trust
from aegis.serving.trusting import LiveTrust
from aegis.v1 import (
    audit_pb2_grpc,
    execution_pb2_grpc,
    identity_pb2_grpc,
    model_pb2_grpc,
    privacy_pb2_grpc,
    review_pb2_grpc,
    training_pb2_grpc,
)
from aegis_server.access import DOMAIN
from aegis_server.checkpoints.models import Models
from aegis_server.checkpoints.service import ModelService
from aegis_server.entrance import Part, open_doors, serve_people
from aegis_server.execution.dispatch import Dispatch
from aegis_server.execution.service import ExecutionService
from aegis_server.foundation import (
    Base,
    Clock,
    access_tokens_of,
    authority_of,
    blobs_of,
    buckets_of,
    cache_of,
    place_of,
    provider_of,
    utc_now,
)
from aegis_server.identity.directory import Directory
from aegis_server.identity.machines.verification import Uses
from aegis_server.identity.service import IdentityService
from aegis_server.participants.registry import Registry
from aegis_server.participation import Unattended, held_roles_of, serve_participants
from aegis_server.policies import decision_log, serve_policy
from aegis_server.policy.decisions import Decisions
from aegis_server.privacy.books import Books
from aegis_server.privacy.ledger import Ledger
from aegis_server.privacy.service import PrivacyService
from aegis_server.remedies import grounds_of, room_of
from aegis_server.review.rounds import Rounds
from aegis_server.review.service import ReviewService
from aegis_server.review.updates import Updates
from aegis_server.settings import Settings
from aegis_server.training.budget import Budget
from aegis_server.training.coordination import CoordinatorService
from aegis_server.training.coordinators import Coordinators, CoordinatorSettings
from aegis_server.training.metrics.combining import RunMetrics
from aegis_server.training.metrics.counting import Counts
from aegis_server.training.progress import Progress
from aegis_server.training.runs import Runs
from aegis_server.training.service import TrainingService
from aegis_server.training.starting import shipped
from aegis_server.training.states import Changes
from aegis_server.workers import Workers

LOG_ID = "aegis-server"
_EXECUTOR_LOG_ID = "aegis-executor"
SCHEMA = "aegis"
SERVER = "server:aegis"

_DRAIN_SECONDS = 10.0
_PROBE_SECONDS = 1.0
# On this machine, by all its workers.
_RUNS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A serving control plane: where it listens, and what must run while it does.

    `parts` end in reverse order: coordinators, which call us, before the port, and the audit log,
    without which no call comes to its end, after it.
    """

    address: str
    token_address: str
    parts: tuple[Part, ...]


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
        trust = LiveTrust(settings.trust)
        trust.refuse_older(await last_recorded(audit, schema=SCHEMA, actor=SERVER))
        cache = cache_of(settings, registry)
        if cache is not None:
            stack.push_async_callback(cache.close)
        directory = Directory(database, clock=clock)
        await directory.open()
        authority = authority_of(settings)
        participants = Registry(
            database, clock=clock, authorities=authority.names if authority else frozenset()
        )
        await participants.open()
        log = decision_log(settings, database, audit, clock=clock, registry=registry)
        decisions = Decisions(
            database,
            cache=cache,
            clock=clock,
            registry=registry,
            held_roles=held_roles_of(directory, participants),
            cache_use=settings.cache_use,
            next_id=log.next_id,
        )
        base = Base(
            settings=settings,
            database=database,
            audit=audit,
            directory=directory,
            participants=participants,
            authority=authority,
            access_tokens=access_tokens_of(settings, clock),
            key_uses=Uses(database),
            provider=provider_of(settings),
            buckets=buckets_of(settings, stack),
            trust=trust,
            decisions=decisions,
            deeds=Deeds(),
            blobs=blobs_of(settings.storage),
            clock=clock,
        )
        port, revoking = open_doors(base, registry)
        ruling = await serve_policy(base, port, log)
        us = Identity(settings.tls.certificate, settings.tls.key, settings.tls.roots)
        executor = Following(settings.executor_address, us, retries=False)
        stack.push_async_callback(executor.close)
        around = _keep_the_record(base, port, us, executor, stack, registry)
        people = await serve_people(base, port, stack)
        remedying = _execution(base, port, executor, registry)
        workers = _workers(base, stack)
        taking_part = serve_participants(base, port, workers, streams=Unattended())
        progress, changes = _training_and_review(base, port, workers, registry)
        stack.push_async_callback(base.deeds.drain)
        stack.push_async_callback(port.close, _DRAIN_SECONDS)
        address = await port.open(settings.listen, settings.token_listen)
        coordinators = Coordinators(
            database,
            progress,
            _coordinator_settings(settings),
            clock=clock,
            changes=changes,
            at_once=max(1, _RUNS_AT_ONCE // settings.workers),
        )
        parts = [audit.run(), *around, log.run(), *ruling, directory.run(), base.key_uses.run()]
        parts += [each.run() for each in people]
        if base.provider is not None:
            parts.append(base.provider.run())
        if cache is not None:
            parts.append(cache.run())
        parts += [
            base.trust.run(),
            record_trust(base.trust, base.audit, actor=SERVER),
            revoking(),
            *taking_part.parts,
            _attend(base, port),
            *remedying,
            coordinators.run(_reachable(address)),
            _watch_health(base, port),
        ]
        yield ControlPlane(address, port.token_address, tuple(parts))


def _keep_the_record(
    base: Base,
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


def _execution(
    base: Base, port: Port, executor: grpc.aio.Channel, registry: CollectorRegistry
) -> list[Part]:
    """Serves actions; returns what must run while it does."""
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(
        IdentityService(base.trust, lambda subject: base.decisions.roles_of(subject, DOMAIN)),
        port.server,
    )
    room, settlement = room_of(grounds_of(base, SERVER), Dispatch(executor), registry)
    execution_pb2_grpc.add_ExecutionServiceServicer_to_server(
        ExecutionService(room, base.deeds), port.server
    )
    return [settlement.run(), room.pauses.run(), room.endings.run()]


def _workers(base: Base, stack: AsyncExitStack) -> Workers:
    # Spawn, because gRPC does not survive a fork; half of the cores, because training needs some,
    # shared with those who serve beside us.
    workers = Workers(max(1, (os.cpu_count() or 2) // 2 // base.settings.workers))
    stack.callback(workers.close)
    return workers


def _training_and_review(
    base: Base, port: Port, workers: Workers, registry: CollectorRegistry
) -> tuple[Progress, Changes]:
    changes = Changes()
    ledger = Ledger()
    budget = Budget(ledger)
    runs = Runs(
        base.database,
        base.audit,
        base.decisions,
        clock=base.clock,
        changes=changes,
        budget=budget,
        find=shipped,
    )
    progress = Progress(
        base.database,
        base.audit,
        base.blobs,
        clock=base.clock,
        changes=changes,
        budget=budget,
        find=shipped,
        counts=Counts(registry),
    )
    storage = base.settings.storage
    metrics = RunMetrics(
        base.database, place_of(storage.metrics, storage) if storage.metrics else None
    )
    training_pb2_grpc.add_TrainingServiceServicer_to_server(
        TrainingService(runs, base.deeds, metrics), port.server
    )
    training_pb2_grpc.add_CoordinatorServiceServicer_to_server(
        CoordinatorService(progress, base.deeds), port.server
    )
    privacy_pb2_grpc.add_PrivacyServiceServicer_to_server(
        PrivacyService(Books(base.database, base.audit, ledger, clock=base.clock), base.deeds),
        port.server,
    )
    model_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelService(Models(base.database, base.blobs)), port.server
    )
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


async def _attend(base: Base, port: Port) -> None:
    """Does nothing, until it is cancelled: then it lets calls and deeds come to their ends."""
    try:
        await asyncio.Event().wait()
    finally:
        await port.close(_DRAIN_SECONDS)
        await base.deeds.drain()


async def _watch_health(base: Base, port: Port) -> None:
    """Says NOT_SERVING while Postgres is away or the newest policy cannot be used."""
    healthy = True
    while True:
        await asyncio.sleep(_PROBE_SECONDS)
        now = not (base.decisions.problem or base.directory.problem or base.participants.problem)
        if now != healthy:
            healthy = now
            await port.set_healthy(healthy)
