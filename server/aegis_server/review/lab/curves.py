"""How well scores tell poisoned updates from honest ones, whatever the threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """A receiver operating characteristic: rates at every threshold, both rising from 0 to 1."""

    false_positives: Vector
    true_positives: Vector

    @property
    def area(self) -> float:
        """Chance that a poisoned update scores above an honest one; ties count half."""
        return float(np.trapezoid(self.true_positives, self.false_positives))

    def at(self, false_positives: float) -> float:
        """Returns the largest true positive rate for at most that many false positives."""
        return float(self.true_positives[self.false_positives <= false_positives].max())

    def points(self, most: int = 60) -> list[tuple[float, float]]:
        """Returns at most so many points of it, for drawing."""
        every = np.linspace(0, len(self.false_positives) - 1, most).round().astype(int)
        return [
            (round(float(self.false_positives[i]), 4), round(float(self.true_positives[i]), 4))
            for i in np.unique(every)
        ]


def curve(honest: Vector, poisoned: Vector) -> Curve | None:
    """Returns the curve of scores that rise with suspicion; None unless there are both kinds."""
    if not len(honest) or not len(poisoned):
        return None
    thresholds = np.unique(np.concatenate([honest, poisoned]))[::-1]
    # How many are at or above each threshold.
    false = _above(honest, thresholds)
    true = _above(poisoned, thresholds)
    return Curve(np.concatenate([[0.0], false]), np.concatenate([[0.0], true]))


def _above(values: Vector, thresholds: Vector) -> Vector:
    below = np.searchsorted(np.sort(values), thresholds, side="left")
    shares: Vector = 1 - below / len(values)
    return shares
