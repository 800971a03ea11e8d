"""Two versions side by side, as pure arithmetic on their rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from aegis_learning import rowfiles, scores
from aegis_learning.models import Family
from aegis_learning.parameters import Array, Parameters
from aegis_learning.rows import Split
from aegis_learning.schema import Schema


@dataclass(frozen=True, slots=True)
class Trial:
    """A model to be tried on both."""

    family: Family
    params: Parameters


@dataclass(frozen=True, slots=True)
class Sides:
    """What is compared."""

    schema: Schema
    one: Split
    other: Split
    trial: Trial | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """A model on rows: share of right answers, loss in nats."""

    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far two versions are apart; `distances` by feature, 0 to 1."""

    rows_in_common: int
    distances: dict[str, float]
    one: Tried | None = None
    other: Tried | None = None


def compare(sides: Sides) -> Comparison:
    """Compares; rows count as often as they occur in both."""
    distances = {
        each.feature.name: _distance(each.of(sides.one.x), each.of(sides.other.x))
        for each in rowfiles.columns(sides.schema)
    }
    common = (_counted(sides.one) & _counted(sides.other)).total()
    if sides.trial is None:
        return Comparison(common, distances)
    one, other = _tried(sides.trial, sides.one), _tried(sides.trial, sides.other)
    return Comparison(common, distances, one, other)


def kolmogorov_smirnov(one: Array, other: Array) -> float:
    """Returns the largest gap between two empirical distribution functions, of shape (n,), (m,)."""
    at = np.concatenate([one, other])
    below = [np.searchsorted(np.sort(each), at, side="right") / len(each) for each in (one, other)]
    return float(np.abs(below[0] - below[1]).max())


def _distance(one: Array, other: Array) -> float:
    """Returns the largest distance of the columns, for words that of the most different one."""
    return max(kolmogorov_smirnov(*pair) for pair in zip(one.T, other.T, strict=True))


def _counted(rows: Split) -> Counter[bytes]:
    return Counter(x.tobytes() + y.tobytes() for x, y in zip(rows.x, rows.y, strict=True))


def _tried(trial: Trial, rows: Split) -> Tried:
    logits = trial.family.logits(trial.params, rows.x)
    return Tried(scores.accuracy(logits, rows.y), scores.log_loss(logits, rows.y))
