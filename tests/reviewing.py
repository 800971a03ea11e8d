"""A review room for tests, put together as `aegis_server.reviewing` does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry

from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis_server.access import Access
from aegis_server.objects.blobs import BlobStore
from aegis_server.policy.decisions import Decisions
from aegis_server.review.cases import Cases, Rooms
from aegis_server.review.desks import Desks
from aegis_server.review.evidence.downloads import Bundles, Draw
from aegis_server.review.holding.deadline import Deadline
from aegis_server.review.holding.overrides import Overrides
from aegis_server.review.holding.terms import Terms
from aegis_server.review.intake import Intake
from aegis_server.review.isolation import Examining
from aegis_server.review.judging import Judging, Metrics
from aegis_server.review.queue.here import Here
from aegis_server.review.rounds import Queue, Rounds
from aegis_server.review.service import ReviewService, Room
from aegis_server.review.settling import Settling
from aegis_server.review.updates import RunLookup, Updates
from aegis_server.review.uploads.senders import Senders
from aegis_server.review.uploads.turns import Turns
from aegis_server.review.uploads.uploads import Uploads
from aegis_server.review.vetting import vet
from aegis_server.workers import Workers
from tests.unit.review.bundles import undrawn


async def unlimited(of: str) -> float:
    """Lets everybody send as much as they like."""
    return 0.0


@dataclass(slots=True)
class Making:
    """What a review room is made of; a test replaces what it is about."""

    database: Database
    audit: AuditLog
    blobs: BlobStore
    runs: RunLookup
    decisions: Decisions
    clock: Callable[[], datetime]
    desks: Desks
    deeds: Deeds = field(default_factory=Deeds)
    examining: Examining = field(default_factory=lambda: Examining(vet, 60.0))
    terms: Terms = field(default_factory=Terms)
    rooms: Rooms = field(default_factory=Rooms)
    rate: Callable[..., object] = unlimited
    bytes_max: int = 64 * 1024 * 1024
    answer_seconds: float = 100.0
    worker: str = "test/1"
    registry: CollectorRegistry | None = None
    queue: Queue | None = None
    # Started by the first bundle.
    workers: Workers = field(default_factory=lambda: Workers(1))
    evidence_key: Ed25519PrivateKey | None = None
    draw: Draw = undrawn

    def judging(self, **instead: object) -> Judging:
        """What judges rounds."""
        parts = {
            "database": self.database,
            "blobs": self.blobs,
            "cases": Cases(
                database=self.database, blobs=self.blobs, runs=self.runs, rooms=self.rooms
            ),
            "desks": self.desks,
            "examining": self.examining,
            "settling": Settling(
                database=self.database,
                audit=self.audit,
                rooms=self.rooms,
                terms=self.terms,
                clock=self.clock,
            ),
            "worker": self.worker,
            "metrics": Metrics(self.registry or CollectorRegistry()),
        } | instead
        return Judging(**parts)  # type: ignore[arg-type]

    def deadline(self) -> Deadline:
        """What decides about held updates."""
        return Deadline(
            database=self.database, audit=self.audit, clock=self.clock, memory=self.rooms.memory
        )

    def room(self) -> Room:
        """All of it."""
        database, audit, clock, runs = self.database, self.audit, self.clock, self.runs
        access = Access(self.decisions, audit)
        queue = self.queue or Here(self.judging(), self.deeds, database, desks=self.desks.count)
        return Room(
            senders=Senders(access, self.decisions),
            turns=Turns(self.rate),  # type: ignore[arg-type]
            uploads=Uploads(database, self.deeds, clock=clock),
            intake=Intake(
                database=database,
                audit=audit,
                blobs=self.blobs,
                runs=runs,
                clock=clock,
                bytes_max=self.bytes_max,
            ),
            rounds=Rounds(
                database=database,
                audit=audit,
                queue=queue,
                clock=clock,
                answer_seconds=self.answer_seconds,
            ),
            overrides=Overrides(
                database=database,
                audit=audit,
                access=access,
                runs=runs,
                clock=clock,
                memory=self.rooms.memory,
            ),
            updates=Updates(database=database, blobs=self.blobs),
            bundles=Bundles(
                database=database,
                audit=audit,
                blobs=self.blobs,
                runs=runs,
                workers=self.workers,
                clock=clock,
                key=self.evidence_key,
                draw=self.draw,
            ),
        )

    def service(self) -> ReviewService:
        """All of it behind its rpcs."""
        return ReviewService(self.room(), self.deeds)


def desks_for(stack: AsyncExitStack, count: int = 1) -> Desks:
    """Desks that end with the stack."""
    desks = Desks(count)
    stack.callback(desks.close)
    return desks
