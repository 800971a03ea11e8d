"""`python -m aegis_executor` constructs the executor and serves until SIGTERM.

With `migrate` it brings its schema up to date, as whoever owns that, and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc
from prometheus_client import REGISTRY, start_http_server

from aegis.channel import Identity
from aegis.errors import AegisError
from aegis.executor.v1 import executor_pb2, executor_pb2_grpc
from aegis.following import Following
from aegis.secretfiles import tell_weak, text_of
from aegis.serving.auditlog import AuditLog
from aegis.serving.auditlog.service import AuditService
from aegis.serving.checkpointing.parts import Keeping
from aegis.serving.checkpointing.peers import PeerLog
from aegis.serving.database import Database, migrate, require_migrated
from aegis.serving.doors import Doors, by_certificate
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.program import announce, configure_logging, run, run_until_stopped
from aegis.serving.revocation import Revocations
from aegis.serving.trust_records import last_recorded, record_trust
from aegis.serving.trusting import LiveTrust
from aegis.v1 import audit_pb2, audit_pb2_grpc
from aegis_executor.admission import Admission
from aegis_executor.catalogue import of_spec
from aegis_executor.catalogue.base import Remedy
from aegis_executor.changing import Changing
from aegis_executor.departing import Departure
from aegis_executor.executions import Executions
from aegis_executor.failpoints import Failpoints
from aegis_executor.guards import Asked, Guards
from aegis_executor.guards.assembly import guarding
from aegis_executor.guards.dependencies import Dependency
from aegis_executor.guards.orders import Orders
from aegis_executor.journal import Journal
from aegis_executor.kubernetes import Kubernetes, configuration
from aegis_executor.looking import Looking
from aegis_executor.planning import Planner
from aegis_executor.plans import Plans
from aegis_executor.service import ExecutorService, admit_peers
from aegis_executor.settings import Settings, SettingsError
from aegis_executor.store import OnlyExecutor
from aegis_executor.verification.healing import Healing
from aegis_executor.verification.ledger import Ledger
from aegis_executor.verification.prometheus import Metrics, Nobody, Prometheus
from aegis_executor.verification.store import Applied

log = logging.getLogger("aegis_executor")

_NAMES = (
    executor_pb2.DESCRIPTOR.services_by_name["ExecutorService"].full_name,
    audit_pb2.DESCRIPTOR.services_by_name["AuditService"].full_name,
)
LOG_ID = "aegis-executor"
_SERVER_LOG_ID = "aegis-server"
_SCHEMA = "aegis_executor"
# A request, its decision and its approvals; `aegis.dsse` keeps each small enough.
_MAX_MESSAGE_BYTES = 64 * 1024
_DRAIN_SECONDS = 20.0


Part = Coroutine[Any, Any, None]


def _now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def assemble(settings: Settings) -> AsyncIterator[tuple[str, tuple[Part, ...]]]:
    """Builds everything and serves; yields the bound address and what must run meanwhile."""
    trust = LiveTrust(settings.trust)
    await require_migrated(settings.database_url, "aegis_executor", _SCHEMA)
    async with AsyncExitStack() as stack:
        lock = await stack.enter_async_context(
            OnlyExecutor(settings.database_url, holder=settings.name, standby=settings.standby)
        )
        database = Database(settings.database_url, application="aegis-executor", max_size=4)
        stack.push_async_callback(database.close)
        await database.open()
        audit = AuditLog(database, log_id=LOG_ID, clock=_now, schema=_SCHEMA)
        await audit.catch_up()
        trust.refuse_older(await last_recorded(audit, schema=_SCHEMA, actor=settings.name))
        keeping = Keeping(
            key=settings.audit_key,
            sinks=settings.audit_sinks,
            witness=_witness(settings, stack),
            trust=lambda: trust,
        )
        kept = keeping.checkpoints(audit, clock=_now, schema=_SCHEMA)
        cluster = Kubernetes(
            configuration(settings.kubeconfig, settings.api_server), reach=settings.reach
        )
        stack.push_async_callback(cluster.close)
        admission = Admission(
            trust=trust,
            name=settings.name,
            cluster=settings.cluster,
            audience=settings.audience,
            limits=settings.limits,
            clock=_now,
        )
        journal = Journal(database, audit, name=settings.name, epoch=lock.epoch, clock=_now)
        metrics, dependencies = _metrics(settings, stack)
        guards = await guarding(
            database,
            cluster,
            namespaces=settings.limits.namespaces,
            numbers=settings.guards,
            epoch=lock.epoch,
            pause_file=settings.pause_file,
            clock_check=settings.clock_check,
            clock=_now,
            registry=REGISTRY,
            dependencies=dependencies,
        )
        departure = Departure(settings.settle_seconds)
        healing = Healing(
            ledger=Ledger(database, audit, name=settings.name, fence=lock.epoch.check, clock=_now),
            cluster=cluster,
            metrics=metrics,
            defaults=settings.verification,
            remedy_of=of_spec,
            recheck=partial(_recheck, guards, admission),
            clock=_now,
            registry=REGISTRY,
            departure=departure,
        )
        planner = Planner(cluster)
        failpoints = Failpoints(settings.failpoint)
        changing = Changing(
            journal=journal,
            cluster=cluster,
            planner=planner,
            admission=admission,
            guards=guards,
            healing=healing,
            failpoints=failpoints,
            departure=departure,
            clock=_now,
        )
        executions = Executions(
            journal=journal,
            cluster=cluster,
            guards=guards,
            changing=changing,
            looking=Looking(cluster, clock=_now, departure=departure),
            failpoints=failpoints,
            registry=REGISTRY,
        )
        stack.push_async_callback(executions.drain)
        service = ExecutorService(
            admission=admission,
            executions=executions,
            plans=Plans(admission=admission, planner=planner, guards=guards),
            audit=audit,
            server=PeerLog(audit, kept, lambda: trust, _SERVER_LOG_ID),
            guards=guards,
            orders=Orders(database, audit, clock=_now),
        )
        revocations = Revocations(settings.tls)
        doors = Doors(
            admit=admit_peers(settings.peers, audit),
            metrics=CallMetrics(REGISTRY),
            authenticate=revocations.guard(by_certificate(settings.trust_domain)),
            max_message_bytes=_MAX_MESSAGE_BYTES,
        )
        address = await _serve(settings, doors, service, AuditService(audit, kept), stack)
        around = keeping.parts(audit, kept, clock=_now, registry=REGISTRY)
        followed = (
            trust.run(),
            record_trust(trust, audit, actor=settings.name),
            revocations.run(doors.leashes.expel),
        )
        yield (
            address,
            (
                audit.run(),
                *around,
                lock.keep(),
                guards.run(),
                executions.sweep(),
                healing.run(),
                *followed,
            ),
        )


def _metrics(settings: Settings, stack: AsyncExitStack) -> tuple[Metrics, tuple[Dependency, ...]]:
    there = settings.prometheus
    if there is None:
        return Nobody(), ()
    dependency = Dependency("prometheus", clock=_now)
    prometheus = Prometheus(
        there.url,
        dependency=dependency,
        authority=there.authority,
        token_file=there.token_file,
    )
    stack.push_async_callback(prometheus.close)
    return prometheus, (dependency,)


async def _recheck(guards: Guards, admission: Admission, applied: Applied, undo: Remedy) -> None:
    """Whether a change may be taken back: our limits, the kill switch and the epoch.

    A cordon is taken back by an uncordoning: a pause of either is meant.
    """
    admission.check_limits(undo)
    for verb in sorted({applied.action, undo.verb}):
        await guards.recheck(
            Asked(
                request_id=applied.request_id,
                verb=verb,
                place=undo.place,
                incident_id=applied.incident_id,
                issuer=applied.issuer,
                approved=applied.approved,
                break_glass=applied.break_glass,
            )
        )


def _witness(settings: Settings, stack: AsyncExitStack) -> grpc.aio.Channel | None:
    if settings.witness_address is None:
        return None
    us = Identity(settings.tls.certificate, settings.tls.key, settings.tls.roots)
    channel = Following(settings.witness_address, us, retries=False)
    stack.push_async_callback(channel.close)
    return channel


async def _serve(
    settings: Settings,
    doors: Doors,
    service: ExecutorService,
    record: AuditService,
    stack: AsyncExitStack,
) -> str:
    port = Port(doors=doors, tls=settings.tls, services=_NAMES)
    executor_pb2_grpc.add_ExecutorServiceServicer_to_server(service, port.server)
    audit_pb2_grpc.add_AuditServiceServicer_to_server(record, port.server)
    stack.push_async_callback(port.close, _DRAIN_SECONDS)
    if settings.metrics_listen is not None:
        host, metrics_port = settings.metrics_listen
        metrics, _ = start_http_server(metrics_port, host)
        stack.callback(metrics.server_close)
        stack.callback(metrics.shutdown)
    return await port.open(settings.listen)


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what is going on."""
    async with assemble(settings) as (address, parts):
        log.info("%s serves cluster %s at %s", settings.name, settings.cluster, address)
        announce(settings.ready_file, address)
        await run_until_stopped(*parts)


async def bring_up_to_date() -> None:
    """Applies migrations as the owner of the schema, whom the serving executor never knows."""
    url = text_of(os.environ, "AEGIS_EXECUTOR_MIGRATION_URL") or text_of(
        os.environ, "AEGIS_EXECUTOR_DATABASE_URL"
    )
    if not url:
        raise SettingsError("set AEGIS_EXECUTOR_MIGRATION_URL or AEGIS_EXECUTOR_DATABASE_URL")
    for name in await migrate(url, "aegis_executor", _SCHEMA):
        log.info("applied %s", name)


def main() -> None:
    """Reads the environment and does as it is told; exits with 2 when it cannot start."""
    parser = argparse.ArgumentParser(prog="aegis-executor", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["serve", "migrate"], default="serve")
    arguments = parser.parse_args()
    configure_logging()
    # lightkube's transport logs every URL at INFO; the journal is the record.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        if arguments.command == "migrate":
            asyncio.run(bring_up_to_date())
            return
        settings = Settings.from_environment(os.environ)
        tell_weak(os.environ, development=settings.development)
        run(serve(settings))
    except (SettingsError, AegisError, RuntimeError, ValueError, OSError) as error:
        log.critical("cannot start: %s", error)
        sys.exit(2)


if __name__ == "__main__":
    main()
