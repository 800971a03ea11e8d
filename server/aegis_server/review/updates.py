"""Updates: proposals to change a model, as they were taken in and as they stand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from aegis.errors import NotFound
from aegis.serving.database import Connection, Database
from aegis_learning.datasets import Dataset
from aegis_learning.models import Family
from aegis_server.objects.blobs import BlobStore
from aegis_server.review import store
from aegis_server.review.case import Local, Verdict
from aegis_server.review.findings import Finding, from_rows
from aegis_server.review.holding.store import OverrideRow, overrides_of

RESOURCE = "/review/updates"
_ATTEMPTS_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Base:
    """What a round starts from: data set and model family, the model's blob, and enrolment.

    `before_sha256` is the blob of the model of the round before that one, empty when there is none.
    `examples` are the rows each participant enrolled, never what it claims in a round; who is not
    listed takes no part. They are `enrolled`, or sites of a simulation that have no identity beyond
    their run. `noises` are the standard deviations each number of their updates has at
    least, where they promised noise. `open` is false once the run has ended, `made` true once the
    model this round makes is stored. `attempts` are the tries the round may have had by now.
    """

    data: Dataset
    model: str
    params_sha256: bytes
    before_sha256: bytes = b""
    examples: Mapping[str, int] = field(default_factory=dict)
    open: bool = True
    made: bool = False
    attempts: int = _ATTEMPTS_MAX
    local: Local = field(default_factory=Local)
    noises: Mapping[str, float] = field(default_factory=dict)
    enrolled: bool = True

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.data.name

    def noise(self, participant: str) -> float:
        """Returns the standard deviation of each number of an honest update; 0: none promised."""
        return self.noises.get(participant, 0.0)

    @property
    def family(self) -> Family:
        """The family of the model that updates change."""
        return self.data.family(self.model)


class RunLookup(Protocol):
    """What the review asks of the training room."""

    async def base_of(self, run_id: str, round: int) -> Base:  # noqa: A002
        """Returns what that round of the run starts from; raises `NotFound`."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the sender says it is about to send; `base_sha256` may be empty."""

    key: store.RoundKey
    participant: str
    sha256: bytes
    size_bytes: int
    base_sha256: bytes = b""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """A stored update with what was decided about it."""

    seq: int
    update_id: str
    key: store.RoundKey
    participant: str
    sha256: bytes
    size_bytes: int
    created_at: datetime
    verdict: Verdict
    score: float
    findings: tuple[Finding, ...]
    reviewed_at: datetime | None
    false_positive_rate: float = 1.0
    would_change: tuple[str, ...] = ()
    hold_until: datetime | None = None
    hold_default: Verdict | None = None
    detector: str = ""
    golden_sha256: bytes = b""
    evidence_sha256: bytes = b""
    overrides: tuple[OverrideRow, ...] = ()
    sent_by: str = ""


class Updates:
    """Finds updates, and their bytes."""

    def __init__(self, *, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    async def get(self, update_id: str) -> Update:
        """Returns one update; raises `NotFound`."""
        async with self._database.transaction() as connection:
            row = await store.find(connection, update_id)
            if row is None:
                raise unknown(update_id)
            return (await complete(connection, [row]))[0]

    async def pieces(self, update_id: str) -> AsyncIterator[bytes]:
        """Yields the bytes of an update; raises `NotFound` or `DataLoss`."""
        update = await self.get(update_id)
        async for piece in self._blobs.pieces(update.sha256):
            yield piece

    async def page(
        self,
        *,
        run_id: str,
        before: int | None,
        limit: int,
        participant: str = "",
        verdict: Verdict | None = None,
    ) -> list[Update]:
        """Returns updates, newest first, behind position `before`."""
        async with self._database.transaction() as connection:
            rows = await store.page(
                connection,
                run_id=run_id,
                participant=participant,
                verdict=verdict.value if verdict else "",
                before=before,
                limit=limit,
            )
            return await complete(connection, rows)


async def complete(connection: Connection, rows: Sequence[store.UpdateRow]) -> list[Update]:
    """Returns the values stored rows mean, with what was decided otherwise about them."""
    found = await overrides_of(connection, [row.update_id for row in rows])
    return [update_of(row, found.get(row.update_id, ())) for row in rows]


def unknown(update_id: str) -> NotFound:
    """Returns the error that says there is no such update."""
    return NotFound("RESOURCE_NOT_FOUND", f"there is no update {update_id}", resource=update_id)


def update_of(row: store.UpdateRow, overrides: tuple[OverrideRow, ...] = ()) -> Update:
    """Returns the value a stored row means."""
    return Update(
        seq=row.seq,
        update_id=row.update_id,
        key=store.RoundKey(row.run_id, row.round, row.attempt),
        participant=row.participant,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        verdict=Verdict(row.verdict),
        score=row.score,
        findings=from_rows(row.findings),
        reviewed_at=row.reviewed_at,
        false_positive_rate=row.false_positive_rate,
        would_change=tuple(row.would_change),
        hold_until=row.hold_until,
        hold_default=Verdict(row.hold_default) if row.hold_default else None,
        detector=row.detector,
        golden_sha256=row.golden_sha256,
        evidence_sha256=row.evidence_sha256,
        overrides=overrides,
        sent_by=row.sent_by,
    )


def details(key: store.RoundKey, participant: str, sha256: bytes) -> dict[str, str]:
    """Returns what every audit record about an update says of it."""
    return {
        "run_id": key.run_id,
        "round": str(key.round),
        "attempt": str(key.attempt),
        "participant": participant,
        "sha256": sha256.hex(),
    }
