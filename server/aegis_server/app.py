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
)
from aegis_server.access import DOMAIN
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
    provider_of,
    utc_now,
)
from aegis_server.governing import serve_governed
from aegis_server.identity.directory import Directory
from aegis_server.identity.machines.verification import Uses
from aegis_server.identity.service import IdentityService
from aegis_server.learning import serve_learning, superlinks
from aegis_server.participants.registry import Registry
from aegis_server.participation import held_roles_of, serve_participants
from aegis_server.policies import decision_log, serve_policy
from aegis_server.policy.decisions import Decisions
from aegis_server.relay import Relay, relay_of
from aegis_server.remedies import grounds_of, room_of
from aegis_server.reviewing import serve_review
from aegis_server.settings import Settings
from aegis_server.workers import Workers

LOG_ID = "aegis-server"
_EXECUTOR_LOG_ID = "aegis-executor"
SCHEMA = "aegis"
SERVER = "server:aegis"

_DRAIN_SECONDS = 10.0
_PROBE_SECONDS = 1.0


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
        relay = relay_of(base)
        taking_part = serve_participants(base, port, workers, streams=relay.streams)
        learning = serve_learning(
            base, port, relay=relay, datasets=taking_part.datasets, registry=registry
        )
        datasets = taking_part.datasets
        reviewing = await serve_review(
            base,
            port,
            learning.progress,
            stack,
            datasets=datasets,
            workers=workers,
            registry=registry,
        )
        governed = serve_governed(base, port, datasets, registry=registry)
        stack.push_async_callback(base.deeds.drain)
        stack.push_async_callback(port.close, _DRAIN_SECONDS)
        address = await port.open(settings.listen, settings.token_listen)
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
            *relay.parts(),
            _attend(base, port, relay),
            *remedying,
            *reviewing,
            *governed,
            learning.coordinators(address),
            *superlinks(settings, participants),
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


async def _attend(base: Base, port: Port, relay: Relay) -> None:
    """Does nothing, until it is cancelled: then it lets calls and deeds come to their ends."""
    try:
        await asyncio.Event().wait()
    finally:
        # Streams of participants have no end of their own.
        relay.news.close()
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
