"""Golden sets and detectors as any number of servers have them: real Postgres, policy and doors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from aegis.errors import AegisError, from_rpc_error
from aegis.local import pki
from aegis.serving.auditlog import AuditLog
from aegis.serving.auditlog.store import Store
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Doors, by_certificate
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.tls import TlsFiles
from aegis.spiffe import Caller
from aegis.v1 import audit_pb2, dataset_pb2_grpc, detector_pb2_grpc, golden_set_pb2_grpc
from aegis_server.access import Access
from aegis_server.checkpoints.models import Models
from aegis_server.objects.blobs import BlobStore
from aegis_server.participants.datasets.catalogue import Datasets
from aegis_server.participants.datasets.service import DatasetService
from aegis_server.participants.holdings.holdings import Holdings
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.review.detectors.current import Current
from aegis_server.review.detectors.detectors import Detectors
from aegis_server.review.detectors.jobs import Jobs, School
from aegis_server.review.detectors.promoting import Promotion
from aegis_server.review.detectors.service import DetectorService
from aegis_server.review.detectors.watching import Watch
from aegis_server.review.golden.beside import Beside
from aegis_server.review.golden.service import GoldenSetService
from aegis_server.review.golden.sets import GoldenSets
from aegis_server.workers import Workers
from tests.blobs import blobs_in
from tests.commands import command
from tests.doors import DoorsFor

ROLES: Mapping[str, tuple[str, ...]] = {
    "user:olga": ("role:operator",),
    "user:otto": ("role:operator",),
    "service:autopilot": ("role:operator",),
    "user:vera": ("role:viewer",),
}


class Clock:
    """A clock that tests put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Office:
    """One server; another on the same database and folder is another replica."""

    folder: Path
    database: Database
    audit: AuditLog
    blobs: BlobStore
    datasets: Datasets
    decisions: Decisions
    revisions: Revisions
    golden: GoldenSets
    detectors: Detectors
    promotion: Promotion
    current: Current
    watch: Watch
    deeds: Deeds
    clock: Clock
    registry: CollectorRegistry
    stack: AsyncExitStack
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)
    address: str = ""

    async def channel(self, subject: str) -> grpc.aio.Channel:
        """A channel behind whose doors everybody is this subject, with its roles."""
        if subject not in self.channels:
            self.channels[subject] = await self._open(subject)
        return self.channels[subject]

    async def golden_sets(self, subject: str = "user:olga") -> Any:
        """GoldenSetService as somebody calls it."""
        return golden_set_pb2_grpc.GoldenSetServiceStub(await self.channel(subject))

    async def scoring(self, subject: str = "user:olga") -> Any:
        """DetectorService as somebody calls it."""
        return detector_pb2_grpc.DetectorServiceStub(await self.channel(subject))

    async def train(self, school: School) -> asyncio.Task[None]:
        """Does jobs until the test ends, or the task that is returned is cancelled."""
        jobs = Jobs(self.database, self.audit, self.blobs, school=school, scan_seconds=0.05)
        task = asyncio.create_task(jobs.run())
        self.stack.push_async_callback(_cancel, task)
        return task

    async def records(self, action: str = "") -> list[audit_pb2.AuditRecord]:
        """What the audit log says about the review, in order."""
        async with self.database.transaction() as connection:
            rows = await Store("aegis").stored_from(connection, start=0, limit=50_000)
        found = [audit_pb2.AuditRecord.FromString(row[1]) for row in rows]
        return [
            each
            for each in found
            if each.kind == audit_pb2.AUDIT_KIND_REVIEW and action in ("", each.action)
        ]

    async def aegis(self, *arguments: str) -> CompletedProcess[str]:
        """Gives a command as admin, over mTLS; we serve it meanwhile."""
        where = ("--home", str(self.folder), "--address", await self._address(), "--as", "admin")
        return await asyncio.to_thread(command, *where, *arguments, environment={"COLUMNS": "120"})

    async def _address(self) -> str:
        if not self.address:
            files = self.folder / "pki"
            pki.ensure(files)
            doors = Doors(
                admit=Access(self.decisions, self.audit).admit,
                metrics=CallMetrics(CollectorRegistry()),
                authenticate=by_certificate("aegis.local"),
            )
            tls = TlsFiles(*(files / name for name in ("server.crt", "server.key", "ca.crt")))
            port = Port(doors=doors, tls=tls, services=())
            self._serve(port.server)
            self.address = await port.open("127.0.0.1:0")
            self.stack.push_async_callback(port.close, 1.0)
        return self.address

    async def _open(self, subject: str) -> grpc.aio.Channel:
        name = subject.partition(":")[2]
        caller = Caller(subject, f"spiffe://aegis.local/user/{name}")
        server = grpc.aio.server(
            interceptors=[DoorsFor(caller, Access(self.decisions, self.audit).admit)]
        )
        self._serve(server)
        server.add_insecure_port(f"unix:{self.folder}/{id(self):x}-{name}")
        await server.start()
        self.stack.push_async_callback(server.stop, 1)
        channel = grpc.aio.insecure_channel(f"unix:{self.folder}/{id(self):x}-{name}")
        self.stack.push_async_callback(channel.close)
        return channel

    def _serve(self, server: Any) -> None:
        schema_of = self.datasets.schema
        holdings = Holdings(self.database, self.audit, schema_of=schema_of, clock=self.clock)
        dataset_pb2_grpc.add_DatasetServiceServicer_to_server(
            DatasetService(self.datasets, holdings, self.deeds), server
        )
        access = Access(self.decisions, self.audit)
        golden_set_pb2_grpc.add_GoldenSetServiceServicer_to_server(
            GoldenSetService(
                self.golden,
                Beside(self.golden, self.datasets, Models(self.database, self.blobs), self.blobs),
                access,
                self.deeds,
            ),
            server,
        )
        detector_pb2_grpc.add_DetectorServiceServicer_to_server(
            DetectorService(self.detectors, self.promotion, access, self.deeds), server
        )


@asynccontextmanager
async def opened(url: str, folder: Path, workers: Workers) -> AsyncIterator[Office]:
    """Starts a server; the database is migrated already."""
    async with AsyncExitStack() as stack:
        database, clock, registry = Database(url, application="test"), Clock(), CollectorRegistry()
        await database.open()
        stack.push_async_callback(database.close)
        audit = AuditLog(database, log_id="test", clock=clock)
        stack.push_async_callback(_cancel, asyncio.create_task(audit.run()))
        decisions = Decisions(
            database,
            cache=None,
            clock=clock,
            registry=registry,
            held_roles=lambda subject: ROLES.get(subject, ()),
        )
        revisions = Revisions(database, audit=audit, decisions=decisions, clock=clock)
        await revisions.ensure_first()
        await decisions.open()
        blobs, deeds = blobs_in(folder / "blobs"), Deeds()
        datasets = Datasets(database, audit, blobs, workers, clock=clock)
        golden = GoldenSets(database, audit, blobs, datasets, clock=clock)
        promotion = Promotion(database, audit, clock=clock)
        current = Current(database, blobs, clock=clock)
        office = Office(
            folder=folder,
            database=database,
            audit=audit,
            blobs=blobs,
            datasets=datasets,
            decisions=decisions,
            revisions=revisions,
            golden=golden,
            detectors=Detectors(database, audit, clock=clock),
            promotion=promotion,
            current=current,
            watch=Watch(database, promotion, current, registry=registry),
            deeds=deeds,
            clock=clock,
            registry=registry,
            stack=stack,
        )
        stack.push_async_callback(deeds.drain)
        yield office


async def answer(call: Any) -> Any:
    """Awaits a call; raises the server's own error."""
    try:
        return await call
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None


async def refusal(call: Any) -> AegisError:
    """The error with which a call is refused."""
    with pytest.raises(AegisError) as refused:
        await answer(call)
    return refused.value


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
