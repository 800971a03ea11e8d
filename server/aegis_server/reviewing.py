"""The review in the control plane: updates in, verdicts out, people in between."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.port import Port
from aegis.trust import load_private_key
from aegis.v1 import review_pb2_grpc, standing_pb2_grpc
from aegis_server.access import Access
from aegis_server.entrance import Part
from aegis_server.foundation import Base, Clock
from aegis_server.identity.buckets import Bucket
from aegis_server.objects.blobs import BlobStore
from aegis_server.participants.datasets.catalogue import Datasets
from aegis_server.review.analytics.analytics import Analytics
from aegis_server.review.case import Verdict
from aegis_server.review.cases import Cases, Rooms
from aegis_server.review.desks import Desks
from aegis_server.review.detectors.current import Current
from aegis_server.review.evidence.downloads import Bundles
from aegis_server.review.evidence.numbers import numbers
from aegis_server.review.golden.sets import GoldenSets
from aegis_server.review.holding.deadline import Deadline
from aegis_server.review.holding.overrides import Overrides
from aegis_server.review.holding.terms import Terms
from aegis_server.review.intake import Intake
from aegis_server.review.isolation import Examining
from aegis_server.review.judging import Judging, Metrics
from aegis_server.review.queue.here import Here
from aegis_server.review.queue.jobs import Jobs, opened
from aegis_server.review.rounds import Queue, Rounds
from aegis_server.review.service import ReviewService, Room
from aegis_server.review.settling import Settling
from aegis_server.review.standing.counting import Counts
from aegis_server.review.standing.quarantines import Quarantines
from aegis_server.review.standing.service import StandingService
from aegis_server.review.standing.standings import Standings
from aegis_server.review.updates import RunLookup, Updates
from aegis_server.review.uploads.senders import Senders
from aegis_server.review.uploads.turns import Turns
from aegis_server.review.uploads.uploads import Uploads
from aegis_server.review.vetting import vet
from aegis_server.settings import ReviewSettings
from aegis_server.workers import Workers

# A second and at once, of what a participant sends by itself.
_UPLOADS = Bucket("uploads", rate=1, burst=60)
_EXAMINE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Ground:
    """What examining stands on, in a server and in a worker of its own."""

    review: ReviewSettings
    database: Database
    audit: AuditLog
    blobs: BlobStore
    runs: RunLookup
    datasets: Datasets
    clock: Clock
    registry: CollectorRegistry


def worker_name() -> str:
    """Returns how this process is called in the queue."""
    return f"{socket.gethostname()}/{os.getpid()}"


def desks_of(workers: int, stack: AsyncExitStack) -> Desks:
    """Returns the desks of one of so many processes on this machine.

    Two at least, or a small round waits for a large one.
    """
    count = max(2, (os.cpu_count() or 2) // 2 // workers)
    desks = Desks(count)
    stack.callback(desks.close)
    return desks


def standings_of(ground: Ground) -> tuple[Standings, Counts]:
    """Returns what remembers judged rounds, and its metrics."""
    counts = Counts(ground.registry)
    return Standings(ground.database, clock=ground.clock, counts=counts), counts


def judging_of(ground: Ground, desks: Desks, standings: Standings) -> Judging:
    """Returns what judges rounds at these desks."""
    database, audit, blobs, clock = ground.database, ground.audit, ground.blobs, ground.clock
    rooms = Rooms(
        golden=GoldenSets(database, audit, blobs, ground.datasets, clock=clock),
        detectors=Current(database, blobs, clock=clock),
        memory=standings,
    )
    return Judging(
        database=database,
        blobs=blobs,
        cases=Cases(database=database, blobs=blobs, runs=ground.runs, rooms=rooms),
        desks=desks,
        examining=Examining(vet, _EXAMINE_SECONDS, numbers),
        settling=Settling(
            database=database,
            audit=audit,
            rooms=rooms,
            terms=_terms(ground.review),
            clock=clock,
        ),
        worker=worker_name(),
        metrics=Metrics(ground.registry),
    )


async def serve_review(
    base: Base,
    port: Port,
    runs: RunLookup,
    stack: AsyncExitStack,
    *,
    datasets: Datasets,
    workers: Workers,
    registry: CollectorRegistry,
) -> list[Part]:
    """Serves ReviewService and StandingService; returns what must run while it does."""
    ground = Ground(
        review=base.settings.review,
        database=base.database,
        audit=base.audit,
        blobs=base.blobs,
        runs=runs,
        datasets=datasets,
        clock=base.clock,
        registry=registry,
    )
    desks = desks_of(base.settings.workers, stack)
    standings, counts = standings_of(ground)
    judging = judging_of(ground, desks, standings)
    queue, parts = await _queue_of(base, judging, desks, stack)
    uploads = Uploads(base.database, base.deeds, clock=base.clock)
    access = Access(base.decisions, base.audit)
    database, audit, clock = base.database, base.audit, base.clock
    room = Room(
        senders=Senders(access, base.decisions),
        turns=Turns(_rate_of(base)),
        uploads=uploads,
        intake=Intake(database=database, audit=audit, blobs=base.blobs, runs=runs, clock=clock),
        rounds=Rounds(database=database, audit=audit, queue=queue, clock=clock),
        overrides=Overrides(
            database=database,
            audit=audit,
            access=access,
            runs=runs,
            clock=clock,
            memory=standings,
        ),
        updates=Updates(database=database, blobs=base.blobs),
        bundles=_bundles(base, runs, workers, datasets),
    )
    review_pb2_grpc.add_ReviewServiceServicer_to_server(
        ReviewService(room, base.deeds), port.server
    )
    service = StandingService(
        standings,
        Quarantines(database, audit, clock=clock, counts=counts),
        Analytics(database, clock=clock),
        access,
        base.deeds,
    )
    standing_pb2_grpc.add_StandingServiceServicer_to_server(service, port.server)
    deadline = Deadline(database=database, audit=audit, clock=clock, memory=standings)
    return [judging.run(), uploads.run(), deadline.run(), *parts]


async def _queue_of(
    base: Base, judging: Judging, desks: Desks, stack: AsyncExitStack
) -> tuple[Queue, list[Part]]:
    """Returns who has rounds judged, and what must run for it: workers look for what waits."""
    if base.settings.review.workers == "queue":
        app = await stack.enter_async_context(opened(base.settings.database_url))
        return Jobs(app, base.database), []
    here = Here(judging, base.deeds, base.database, desks=desks.count)
    return here, [here.run()]


def _bundles(base: Base, runs: RunLookup, workers: Workers, datasets: Datasets) -> Bundles:
    key = base.settings.evidence_key
    return Bundles(
        database=base.database,
        audit=base.audit,
        blobs=base.blobs,
        runs=runs,
        golden=GoldenSets(base.database, base.audit, base.blobs, datasets, clock=base.clock),
        workers=workers,
        clock=base.clock,
        key=load_private_key(key) if key is not None else None,
    )


def _terms(settings: ReviewSettings) -> Terms:
    default = Verdict.ACCEPTED if settings.hold_default == "accept" else Verdict.REJECTED
    return Terms(settings.hold_seconds, default)


def _rate_of(base: Base) -> Callable[[str], Awaitable[float]]:
    async def rate(of: str) -> float:
        taken, seconds = await base.buckets.lease(_UPLOADS, of, 1)
        return 0.0 if taken else seconds

    return rate
