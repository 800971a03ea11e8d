"""Cases: a round put together from what the rooms around the review know of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from aegis.errors import DataLoss
from aegis.serving.auditlog import Entry
from aegis.serving.database import Connection, Database
from aegis_learning.datasets import Split
from aegis_server.objects.blobs import BlobStore
from aegis_server.review.case import Case, Past, Ruling, Submission
from aegis_server.review.findings import Finding
from aegis_server.review.isolation import failure
from aegis_server.review.store import RoundKey
from aegis_server.review.updates import Base, RunLookup, Update


class Golden(Protocol):
    """Knows which golden rows are in use."""

    async def active(self, dataset: str) -> tuple[Split, bytes] | None:
        """Returns the rows and their SHA-256; None where those of the data set are."""


class Detectors(Protocol):
    """Knows which detectors decide and which are only watched."""

    async def champion(self) -> bytes:
        """Returns the file of the detector that decides; empty for the one that ships."""

    async def shadow(self) -> bytes:
        """Returns the file of the one that is watched; empty without one."""

    async def note(self, connection: Connection, ruling: Ruling) -> None:
        """Keeps how they did, in the transaction that writes the verdicts."""


class Memory(Protocol):
    """Remembers judged updates from round to round."""

    async def past_of(
        self, connection: Connection, run_id: str, participants: Collection[str], *, before: int
    ) -> Mapping[str, tuple[Past, ...]]:
        """Returns what each participant sent in the run's rounds below `before`."""

    async def remember(
        self, connection: Connection, key: RoundKey, *, dataset: str, ruling: Ruling, now: datetime
    ) -> Sequence[Entry]:
        """Keeps a round, in the transaction that writes its verdicts; returns what to record."""

    async def reckon(
        self, connection: Connection, participants: Collection[str], *, now: datetime
    ) -> Sequence[Entry]:
        """Takes in that verdicts of these have changed; returns what to record."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """The rooms around the review, as far as there are some."""

    golden: Golden | None = None
    detectors: Detectors | None = None
    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case ready for a desk.

    `lost` are updates whose bytes cannot be read, with the finding that says so; `refused` is set
    when nothing of the round can be examined.
    """

    case: Case
    base: Base
    golden_sha256: bytes = b""
    lost: Mapping[str, Finding] = field(default_factory=dict)
    refused: Finding | None = None


class Cases:
    """Puts rounds together."""

    def __init__(
        self, *, database: Database, blobs: BlobStore, runs: RunLookup, rooms: Rooms
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._runs = runs
        self.rooms = rooms

    async def prepare(self, key: RoundKey, updates: Sequence[Update]) -> Prepared:
        """Returns a round's case.

        Raises `NotFound`, `Unavailable`, or `DataLoss` when the base model itself is damaged.
        """
        base = await self._runs.base_of(key.run_id, key.round)
        past = await self._past(key, updates)
        submissions: list[Submission] = []
        lost: dict[str, Finding] = {}
        for update in updates:
            try:
                data = await self._blobs.get(update.sha256)
            except DataLoss as error:
                # Nobody's fault, and no reason to leave the others without verdicts.
                lost[update.update_id] = failure("intake", f"its bytes are lost: {error.message}")
                continue
            submissions.append(
                Submission(
                    update_id=update.update_id,
                    data=data,
                    examples=base.examples.get(update.participant, 0),
                    participant=update.participant,
                    noise=base.noise(update.participant),
                    past=past.get(update.participant, ()),
                )
            )
        golden, golden_sha256 = await self._golden(base)
        detectors = self.rooms.detectors
        case = Case(
            family=base.family,
            golden=golden,
            base=await self._blobs.get(base.params_sha256),
            submissions=tuple(submissions),
            before=await self._before(base),
            round=key.round,
            local=base.local,
            detector=await detectors.champion() if detectors else b"",
            shadow=await detectors.shadow() if detectors else b"",
        )
        return Prepared(case, base, golden_sha256, lost, _unknown_labels(case))

    async def _before(self, base: Base) -> bytes:
        """Returns the model of the round before; a lost one is missed by one examiner only."""
        try:
            return await self._blobs.get(base.before_sha256) if base.before_sha256 else b""
        except DataLoss:
            return b""

    async def _past(
        self, key: RoundKey, updates: Sequence[Update]
    ) -> Mapping[str, tuple[Past, ...]]:
        if self.rooms.memory is None:
            return {}
        names = [update.participant for update in updates]
        async with self._database.transaction() as connection:
            return await self.rooms.memory.past_of(connection, key.run_id, names, before=key.round)

    async def _golden(self, base: Base) -> tuple[Split, bytes]:
        found = await self.rooms.golden.active(base.dataset) if self.rooms.golden else None
        return found if found is not None else (base.data.golden, b"")


def _unknown_labels(case: Case) -> Finding | None:
    """A golden set made for another schema would accuse everybody, or stop an examiner."""
    strange = sorted({int(y) for y in case.golden.y} - set(range(case.family.classes)))
    if not strange:
        return None
    return failure(
        "golden-set",
        f"the golden rows have labels the model does not know, e.g. {strange[0]}:"
        " put other golden rows in use",
    )
