"""Detectors: what there is, how each was made and measured, and jobs that make another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from aegis.errors import AlreadyExists, FailedPrecondition
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis.serving.doors import Call
from aegis_learning.parameters import digest
from aegis_server.review.detection import builtin
from aegis_server.review.detectors import store
from aegis_server.review.detectors.lessons import recorded_of, shortage
from aegis_server.review.detectors.records import (
    BUILTIN,
    Measured,
    entry,
    from_rows,
    missing,
)
from aegis_server.review.detectors.store import Both, StoredDetector

CHAMPION = "champion"
TARGET_FPR = 0.03


@dataclass(frozen=True, slots=True)
class Wanted:
    """A detector somebody wants trained; `dataset` empty means updates of all."""

    request_id: str
    dataset: str
    target_fpr: float
    seed: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A detector with all it was measured by; `scored` and `rejected` since it decides."""

    stored: StoredDetector
    sha256: bytes
    measured: tuple[Measured, ...]
    scored: int = 0
    rejected: int = 0


class Detectors:
    """What `DetectorService` answers from, but for promotions."""

    def __init__(
        self, database: Database, audit: AuditLog, *, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock

    async def train(self, wanted: Wanted, by: Call) -> Shown:
        """Records a job, or returns the one this request started.

        Raises `FailedPrecondition` (TRAINING_DATA_MISSING) or `AlreadyExists` (REQUEST_ID_REUSED).
        """
        actor = by.caller.subject
        async with self._database.transaction() as connection:
            earlier = await store.of_request(connection, wanted.request_id)
            if earlier is None:
                short = shortage(await recorded_of(connection, wanted.dataset))
                if short is not None:
                    raise FailedPrecondition(
                        "TRAINING_DATA_MISSING",
                        str(short),
                        recorded=short.recorded,
                        needed=short.needed,
                    )
                version = await store.insert(
                    connection,
                    request_id=wanted.request_id,
                    dataset=wanted.dataset,
                    target_fpr=wanted.target_fpr,
                    seed=wanted.seed,
                    by=actor,
                    at=self._clock(),
                )
                if version is not None:
                    stored = await require(connection, version)
                    told = entry(
                        stored,
                        actor=actor,
                        action="train",
                        outcome="training",
                        grant=by.grant,
                        details={
                            "dataset": wanted.dataset,
                            "target_fpr": f"{wanted.target_fpr:g}",
                            "seed": str(wanted.seed),
                        },
                    )
                    await self._audit.record_in(connection, told)
                    return shown(stored)
                earlier = await store.of_request(connection, wanted.request_id)
        if earlier is None or _asked(earlier) != (wanted, actor):
            raise AlreadyExists(
                "REQUEST_ID_REUSED", "this request_id was used for a different request"
            )
        return shown(earlier)

    async def get(self, version: str) -> Shown:
        """Returns one detector, or the "champion"; raises `NotFound`."""
        async with self._database.transaction() as connection:
            stored = await require(connection, version)
            counted = await store.counted(connection, [stored.version])
        return shown(stored, *counted.get(stored.version, ()))

    async def page(self, *, before: int | None, limit: int) -> list[Shown]:
        """Returns detectors, newest first, below position `before`."""
        async with self._database.transaction() as connection:
            found = await store.page(connection, before=before, limit=limit)
            counted = await store.counted(connection, [each.version for each in found])
        return [shown(each, *counted.get(each.version, ())) for each in found]

    async def compare(self, version: str, other: str = "") -> tuple[Shown, Shown, Both]:
        """Returns two detectors and how they differ; `other` empty means the champion.

        Raises `NotFound`.
        """
        one, two = await self.get(version), await self.get(other or CHAMPION)
        async with self._database.transaction() as connection:
            both = await store.both(connection, one.stored.version, two.stored.version)
        return one, two, both


def shown(stored: StoredDetector, scored: int = 0, rejected: int = 0) -> Shown:
    """Returns what is shown of a detector."""
    sha256 = digest(builtin().encode()) if stored.version == BUILTIN else stored.sha256 or b""
    return Shown(stored, sha256, tuple(from_rows(stored.measured)), scored, rejected)


async def require(connection: Connection, version: str) -> StoredDetector:
    """Returns a detector, by its version or as the "champion"; raises `NotFound`."""
    if version == CHAMPION:
        found = await store.in_state(connection, CHAMPION)
    else:
        found = await store.find(connection, version)
    if found is None:
        raise missing(version)
    return found


def _asked(stored: StoredDetector) -> tuple[Wanted, str]:
    wanted = Wanted(stored.request_id or "", stored.dataset, stored.target_fpr, stored.seed)
    return wanted, stored.created_by
