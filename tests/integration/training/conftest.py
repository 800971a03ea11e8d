"""The training room as it stands in a server: real Postgres, policy, review, audit and mTLS."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client import CollectorRegistry
from tests.blobs import blobs_in
from tests.reviewing import Making, desks_for

from aegis.channel import Identity, connect
from aegis.local import pki
from aegis.local.authority import Authority, Names
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Doors, by_certificate
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.tls import TlsFiles
from aegis.spiffe import spiffe_id
from aegis.trust import TrustBundle
from aegis.v1 import (
    identity_pb2_grpc,
    model_pb2_grpc,
    review_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from aegis_server.access import DOMAIN, Access
from aegis_server.checkpoints.models import Models
from aegis_server.checkpoints.service import ModelService
from aegis_server.identity.service import IdentityService
from aegis_server.objects.blobs import BlobStore
from aegis_server.objects.folder import Folder
from aegis_server.participants.registry import KIND, ROLE
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.privacy.ledger import Ledger
from aegis_server.training.budget import Budget
from aegis_server.training.coordination import CoordinatorService
from aegis_server.training.coordinators import Coordinators, CoordinatorSettings
from aegis_server.training.metrics.combining import RunMetrics
from aegis_server.training.metrics.counting import Counts
from aegis_server.training.progress import Progress
from aegis_server.training.runs import Runs
from aegis_server.training.service import TrainingService
from aegis_server.training.states import Changes
from aegis_server.training.tasks.news import News
from aegis_server.training.tasks.tasks import Tasks


def small_plan(**changes: object) -> training_pb2.RunPlan:
    """A run of three sites that takes a second once a coordinator is up."""
    plan = training_pb2.RunPlan(
        dataset="breast-cancer",
        model="mlp",
        strategy=training_pb2.STRATEGY_FED_AVG,
        rounds=3,
        participants=3,
        local_steps=2,
        learning_rate=1.0,
        sample_rate=0.3,
        clip_norm=1.0,
        target_epsilon=8.0,
        delta=1e-3,
        dirichlet_alpha=1.0,
        seed=7,
        review=False,
        simulation=True,
        min_participants=2,
        round_deadline=Duration(seconds=30),
    )
    plan.MergeFrom(training_pb2.RunPlan(**changes))  # type: ignore[arg-type]
    return plan


@dataclass
class Room:
    """The room's parts, and how to reach them from outside."""

    database: Database
    audit: AuditLog
    blobs: BlobStore
    runs: Runs
    progress: Progress
    coordinators: Coordinators
    address: str
    pki: Path
    folder: Path
    stack: AsyncExitStack
    registry: CollectorRegistry

    async def start(self, plan: training_pb2.RunPlan, *, actor: str = "user:admin") -> str:
        """Starts a run without a coordinator and returns its id."""
        view = await self.runs.start(request_id=uuid.uuid4(), plan=plan, actor=actor)
        return view.run.run_id

    async def supervise(self) -> asyncio.Task[None]:
        """Starts coordinators for open runs until the test ends."""
        task = asyncio.create_task(self.coordinators.run(self.address))
        self.stack.push_async_callback(_cancel, task)
        return task

    async def channel(self, name: str) -> grpc.aio.Channel:
        """A channel with the certificate of that name."""
        return await self.stack.enter_async_context(
            connect(self.address, Identity.of(name, self.pki.parent))
        )

    async def as_admin(self) -> training_pb2_grpc.TrainingServiceStub:
        """TrainingService as user:admin calls it."""
        return training_pb2_grpc.TrainingServiceStub(await self.channel("admin"))

    async def enrol(self, name: str) -> None:
        """A participant with a certificate and 100 rows of the plan's data set."""
        authority = Authority.open(self.pki)
        assert authority is not None
        names = Names(spiffe_id(f"{KIND}{name}", "aegis.local"))
        authority.issue(name, names, _now(), [], days=1)
        async with self.database.transaction() as connection:
            await connection.execute(
                """
                insert into aegis.participant
                    (name, state, invited_by, invited_at, secret_sha256, invitation_ends_at)
                values (%s, 2, 'user:admin', now(), %s, now())
                """,
                (name, hashlib.sha256(name.encode()).digest()),
            )
            await connection.execute(
                "insert into aegis.holding (participant, dataset, rows_max, rows)"
                " values (%s, %s, 100, 100)",
                (name, small_plan().dataset),
            )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def plan() -> Callable[..., training_pb2.RunPlan]:
    """Makes small plans."""
    return small_plan


@pytest.fixture
def enrolled(plan: Callable[..., training_pb2.RunPlan]) -> Callable[..., training_pb2.RunPlan]:
    """Makes plans of participants that have enrolled."""

    def make(**how: object) -> training_pb2.RunPlan:
        made = plan(sites=training_pb2.SITES_ENROLLED, **how)
        made.simulation, made.review = False, True
        return made

    return make


@pytest.fixture
async def room(server_tables: str, server_database_url: str, tmp_path: Path) -> AsyncIterator[Room]:
    """A serving training room on a fresh database; no coordinator is started."""
    pki.ensure(tmp_path / "pki")
    async with AsyncExitStack() as stack:
        yield await _assemble(stack, server_database_url, tmp_path)


async def _assemble(stack: AsyncExitStack, url: str, folder: Path) -> Room:
    database = Database(url, application="test")
    await database.open()
    stack.push_async_callback(database.close)
    audit = AuditLog(database, log_id="test", clock=_now)
    stack.push_async_callback(_cancel, asyncio.create_task(audit.run()))
    registry = CollectorRegistry()
    decisions = Decisions(
        database,
        cache=None,
        clock=_now,
        registry=registry,
        held_roles=lambda subject: (ROLE,) if subject.startswith(KIND) else (),
    )
    await Revisions(database, audit=audit, decisions=decisions, clock=_now).ensure_first()
    await decisions.open()
    blobs, changes, deeds = blobs_in(folder / "blobs"), Changes(), Deeds()
    budget = Budget(Ledger(epsilon=20.0))
    runs = Runs(database, audit, decisions, clock=_now, changes=changes, budget=budget)
    progress = Progress(
        database,
        audit,
        blobs,
        clock=_now,
        changes=changes,
        budget=budget,
        counts=Counts(registry),
    )
    coordinators = Coordinators(
        database,
        progress,
        CoordinatorSettings(
            certificate=folder / "pki" / "coordinator.crt",
            key=folder / "pki" / "coordinator.key",
            roots=folder / "pki" / "ca.crt",
            folder=folder,
        ),
        clock=_now,
        changes=changes,
    )
    tls = TlsFiles(*(folder / "pki" / name for name in ("server.crt", "server.key", "ca.crt")))
    port = Port(
        doors=Doors(
            admit=Access(decisions, audit).admit,
            metrics=CallMetrics(registry),
            authenticate=by_certificate("aegis.local"),
        ),
        tls=tls,
        services=(),
    )
    training_pb2_grpc.add_TrainingServiceServicer_to_server(
        TrainingService(runs, deeds, RunMetrics(database, Folder(folder / "metrics"))), port.server
    )
    training_pb2_grpc.add_CoordinatorServiceServicer_to_server(
        CoordinatorService(progress, deeds, Tasks(database, blobs, clock=_now), News(url)),
        port.server,
    )
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(
        IdentityService(TrustBundle(()), lambda subject: decisions.roles_of(subject, DOMAIN)),
        port.server,
    )
    model_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelService(Models(database, blobs)), port.server
    )
    review_pb2_grpc.add_ReviewServiceServicer_to_server(
        Making(
            database=database,
            audit=audit,
            blobs=blobs,
            runs=progress,
            decisions=decisions,
            clock=_now,
            desks=desks_for(stack),
            deeds=deeds,
        ).service(),
        port.server,
    )
    address = await port.open("127.0.0.1:0")
    stack.push_async_callback(deeds.drain)
    stack.push_async_callback(port.close, 1.0)
    return Room(
        database,
        audit,
        blobs,
        runs,
        progress,
        coordinators,
        address,
        folder / "pki",
        folder,
        stack,
        registry,
    )
