"""What a detector learns from, and how it is examined: plain functions for a worker process.

It learns from honest updates only, so no attack has to be known. A quarter of the participants is
held back: how many of their updates it counts out says how it will do with sites it has not seen.
Attacks are the lab's, in worlds whose seeds nobody trained on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from aegis.serving.database import Connection
from aegis_server.review.detection import Detector, Recorded, train
from aegis_server.review.detection.observing import UPDATES_MIN
from aegis_server.review.detection.training import ROWS_MIN, complete, rounds_of
from aegis_server.review.detectors import store
from aegis_server.review.detectors.records import HELD_BACK, RATES, Measured, mean
from aegis_server.review.lab.measuring import measure
from aegis_server.review.memory.store import recorded

_HELD_BACK_SHARE = 0.25
# Enough must be left when some are held back, in all and in each round.
NEEDED = math.ceil(ROWS_MIN / (1 - _HELD_BACK_SHARE))
PARTICIPANTS_MIN = math.ceil(UPDATES_MIN / (1 - _HELD_BACK_SHARE))
# The lab's own measurements begin at small numbers, what ships was trained on larger ones.
_SEEDS_FIRST, _SEEDS = 900_000, 3


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why there is too little to learn from."""

    recorded: int
    needed: int
    participants: int

    def __str__(self) -> str:
        return (
            f"{self.recorded} updates of {self.participants} participants are recorded; it takes"
            f" {self.needed} of {PARTICIPANTS_MIN}"
        )


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one detector is to learn."""

    version: str
    rows: tuple[Recorded, ...]
    target_fpr: float
    seed: int


@dataclass(frozen=True, slots=True)
class Learnt:
    """A detector's file, what it learnt from, and how it did on who was held back."""

    file: bytes
    updates: int
    rounds: int
    participants: int
    held_back: Measured


@dataclass(frozen=True, slots=True)
class Exam:
    """A detector under every attack, in the lab's worlds of one seed."""

    file: bytes
    seed: int


def shortage(rows: Sequence[Recorded]) -> Shortage | None:
    """Returns what is missing, if something is."""
    participants = len({each.participant for each in rows})
    if len(rows) >= NEEDED and participants >= PARTICIPANTS_MIN:
        return None
    return Shortage(len(rows), NEEDED, participants)


async def recorded_of(connection: Connection, dataset: str) -> list[Recorded]:
    """Returns what was recorded of accepted updates, of one data set or (empty) of all.

    Only what this program can learn from.
    """
    names = [dataset] if dataset else await store.datasets(connection)
    found = [each for name in names for each in await recorded(connection, name)]
    rows = (Recorded(each.run_id, each.round, each.participant, each.features) for each in found)
    return [each for each in rows if complete(each)]


def learn(lesson: Lesson) -> Learnt:
    """Trains a detector; raises ValueError for rows nothing can be learnt from."""
    back = held_back({each.participant for each in lesson.rows}, lesson.seed)
    rows = [each for each in lesson.rows if each.participant not in back]
    detector = train(rows, target_fpr=lesson.target_fpr, seed=lesson.seed, version=lesson.version)
    return Learnt(
        file=detector.encode(),
        updates=len(rows),
        rounds=len({(each.run_id, each.round) for each in rows}),
        participants=len({each.participant for each in rows}),
        held_back=_counted_out(detector, lesson.rows, back),
    )


def examine(exam: Exam) -> list[Measured]:
    """Returns how the detector does against every attack of the lab."""
    found = measure(Detector.decode(exam.file), seeds=[exam.seed], quick=True)
    return [Measured(each.attack, *(getattr(each, rate) for rate in RATES)) for each in found]


def seeds(seed: int) -> list[int]:
    """Returns the seeds of the worlds a detector is examined in."""
    return [_SEEDS_FIRST + (seed + number) % 10_000 for number in range(_SEEDS)]


def combined(exams: Sequence[Sequence[Measured]]) -> list[Measured]:
    """Returns the means over the seeds, attack by attack; what is NaN in one does not count."""
    together: dict[str, list[Measured]] = {}
    for each in (each for exam in exams for each in exam):
        together.setdefault(each.attack, []).append(each)
    return [
        Measured(attack, *(mean(getattr(each, rate) for each in found) for rate in RATES))
        for attack, found in together.items()
    ]


def held_back(participants: Collection[str], seed: int) -> set[str]:
    """Returns who is held back: a quarter, at least one; the same ones for the same seed."""
    names = sorted(participants)
    count = max(1, round(_HELD_BACK_SHARE * len(names)))
    return set(random.Random(seed).sample(names, count))  # noqa: S311  # no secret


def _counted_out(
    detector: Detector, rows: Sequence[Recorded], participants: Collection[str]
) -> Measured:
    """Returns the share of these participants' updates that score 1 or more, each in its round."""
    scores = [
        score
        for together, seen in rounds_of(rows)
        for row, score in zip(together, detector.suspicion(seen).scores, strict=True)
        if row.participant in participants
    ]
    nan = math.nan
    fpr = sum(bool(score >= 1) for score in scores) / len(scores) if scores else nan
    return Measured(HELD_BACK, nan, nan, nan, nan, fpr)
