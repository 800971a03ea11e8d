"""Training: from updates that were honest to a detector; attacks are not needed.

What an update looked like is recorded with it, so training is bookkeeping: rows are put back into
their rounds, what is usual is learned for each kind of round, and how rare is too rare is measured
on rounds that were held back: runs are dealt to two halves by a hash of their names, and each half
is looked at with what was learned from the other.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aegis_server.review.detection.detector import Detector
from aegis_server.review.detection.forest import plant
from aegis_server.review.detection.measures import NAMES, suspicious
from aegis_server.review.detection.observing import SO_FAR, UPDATES_MIN, Observation
from aegis_server.review.detection.regimes import (
    ROUNDS_MIN,
    Calibration,
    Knowledge,
    Regime,
    regime_name,
    size_of,
    surprises,
)
from aegis_server.review.detection.tails import table
from aegis_server.review.deviations import Vector

_ABOUT = ("round/core", "round/remembered", "round/private", "round/classes")
ROWS_MIN = 200


class TooFewRows(ValueError):
    """There are not enough recorded updates to say what is rare."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """An accepted update as it was judged: `features` are those of its `Judgement`."""

    run_id: str
    round: int
    participant: str
    features: Mapping[str, float]


def train(rows: Sequence[Recorded], *, target_fpr: float, seed: int, version: str) -> Detector:
    """Returns the detector that finds so large a share of honest updates suspicious.

    Raises `TooFewRows`, and ValueError for a rate that is none or a row that lacks a measure.
    """
    if not 0 < target_fpr < 0.5:
        raise ValueError("the rate of false positives must be above 0 and below one half")
    by_regime: dict[str, list[tuple[str, Observation]]] = defaultdict(list)
    for some, seen in rounds_of(rows):
        name = regime_name(
            private=seen.private,
            classes=seen.classes,
            centred=seen.centred,
            evenness=seen.evenness,
        )
        by_regime[name].append((some[0].run_id, seen))
    regimes = {
        name: regime
        for name, group in sorted(by_regime.items())
        if (regime := _regime(group, seed)) is not None
    }
    if not regimes:
        raise TooFewRows(f"at least {ROWS_MIN} updates of rounds of {UPDATES_MIN} are needed")
    return Detector(version, target_fpr, regimes)


def _regime(group: Sequence[tuple[str, Observation]], seed: int) -> Regime | None:
    everything = [seen for _, seen in group]
    if _rows(everything) < ROWS_MIN:
        return None
    halves = [[seen for run_id, seen in group if _half(run_id) == half] for half in (0, 1)]
    if min(map(_rows, halves)) < ROWS_MIN / 2:
        halves = [everything, everything]
    # Each half by what was learned from the other.
    crossed = [
        (_known(learned, seed), [seen for seen in held if len(seen.now) >= UPDATES_MIN])
        for learned, held in (halves, halves[::-1])
    ]
    sizes = {size_of(len(seen.now)) for seen in everything}
    calibrations = {
        size: _calibration(
            [(known, [s for s in held if size_of(len(s.now)) == size]) for known, held in crossed]
        )
        for size in sorted(sizes)
        if _rows([seen for seen in everything if size_of(len(seen.now)) == size]) >= ROWS_MIN / 2
    }
    now, so_far = _known(everything, seed)
    return Regime(now, so_far, calibrations)


def _known(rounds: Sequence[Observation], seed: int) -> tuple[Knowledge, Knowledge]:
    now = np.concatenate([seen.now for seen in rounds])
    so_far = np.concatenate([seen.so_far[seen.rounds >= ROUNDS_MIN] for seen in rounds])
    if not len(so_far):
        so_far = now
    return (
        Knowledge(table(suspicious(now)), plant(now, seed)),
        Knowledge(table(suspicious(so_far)), plant(so_far, seed + 1)),
    )


def _calibration(
    crossed: Sequence[tuple[tuple[Knowledge, Knowledge], Sequence[Observation]]],
) -> Calibration:
    now = table(
        np.concatenate([known[0].views(s, s.now) for known, rounds in crossed for s in rounds])
    )
    later = [
        known[1].views(s, s.so_far)[s.rounds >= ROUNDS_MIN]
        for known, rounds in crossed
        for s in rounds
    ]
    so_far = table(np.concatenate(later)) if any(map(len, later)) else now
    views = Calibration(now, so_far, now)
    highest: Vector = np.concatenate(
        [
            surprises(Regime(*known, {}), views, seen).max(axis=1)
            for known, rounds in crossed
            for seen in rounds
        ]
    )
    return Calibration(now, so_far, table(highest[:, None]))


def _rows(rounds: Sequence[Observation]) -> int:
    return sum(len(seen.now) for seen in rounds)


def complete(row: Recorded) -> bool:
    """Says whether a row has every number there is to learn from.

    Earlier programs recorded others, and what no examiner could look at has none.
    """
    names = (*NAMES, *(SO_FAR + name for name in NAMES), *_ABOUT)
    return all(math.isfinite(row.features.get(name, math.nan)) for name in names)


def rounds_of(rows: Sequence[Recorded]) -> list[tuple[list[Recorded], Observation]]:
    """Returns the rounds the rows are of that are large enough, in an order of their own."""
    together: dict[tuple[str, int], list[Recorded]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.run_id, row.round, row.participant)):
        together[row.run_id, row.round].append(row)
    return [(some, _observation(some)) for some in together.values() if len(some) >= UPDATES_MIN]


def _observation(rows: Sequence[Recorded]) -> Observation:
    def column(name: str) -> Vector:
        try:
            values = np.array([row.features[name] for row in rows], np.float64)
        except KeyError as error:
            raise ValueError(f"a recorded update lacks {name}") from error
        if not np.isfinite(values).all():
            raise ValueError(f"{name} of a recorded update is not a finite number")
        return values

    core = column("round/core") > 0
    return Observation(
        now=np.stack([column(name) for name in NAMES], axis=1),
        so_far=np.stack([column(SO_FAR + name) for name in NAMES], axis=1),
        core=core if core.any() else np.ones(len(rows), bool),
        rounds=column("round/remembered"),
        private=bool(column("round/private")[0] > 0),
        classes=int(column("round/classes")[0]),
        # Earlier programs did not record these.
        centred=rows[0].features.get("round/centred", 0.0) > 0,
        evenness=rows[0].features.get("round/evenness", 1.0),
    )


def _half(run_id: str) -> int:
    return hashlib.sha256(run_id.encode()).digest()[0] % 2
