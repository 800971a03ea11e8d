"""The mean that hides any one participant: whole updates clipped, and noise on their sum.

McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR
2018, Algorithm 1: each update is scaled down to the norm C at most, all weigh the same, and the sum
gets Gaussian noise of standard deviation z·C. With or without the rows of one participant, who
takes part in both cases, the sum moves by at most C; so much is one Gaussian mechanism of noise
multiplier z. The number of updates is no secret: it divides the sum afterwards.

How much one participant can move the result, by lies too, is bounded by the same C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.aggregation.rule import Aggregate
from aegis_learning.aggregation.updates import Updates
from aegis_learning.parameters import Array

# So many independent standard normal numbers; nobody else may know them.
Noise: TypeAlias = Callable[[int], NDArray[np.float64]]

_WIDTH = 1 << 16
# The clipped vector is rounded to float32; what that can add to its norm is taken off before.
_ROUNDING = 1 - 2.0**-22


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateMean:
    """The noisy mean of clipped updates; raises `AssumptionBroken` for what bounds nothing."""

    clip_norm: float
    noise_multiplier: float
    noise: Noise

    def __post_init__(self) -> None:
        if not (0 < self.clip_norm < np.inf):
            raise AssumptionBroken("update_clip_norm", "must be above 0: it bounds every update")
        if not (0 < self.noise_multiplier < np.inf):
            raise AssumptionBroken("noise_multiplier", "must be above 0")

    @property
    def least(self) -> int:
        """Even one update is hidden by the noise."""
        return 1

    def aggregate(self, updates: Updates) -> Aggregate:
        """Returns the mean."""
        factors = clip_factors(updates, self.clip_norm)
        mean = np.empty(updates.size, np.float32)
        for start, rows in updates.blocks(_WIDTH):
            total = np.zeros(rows[0].size)
            for row, factor in zip(rows, factors, strict=True):
                total += clipped(row, factor)
            total += self.noise_multiplier * self.clip_norm * self.noise(total.size)
            into = mean[start : start + total.size]
            with np.errstate(over="ignore"):
                np.copyto(into, total / updates.count, casting="same_kind")
            if not np.isfinite(into).all():
                updates.blame(rows)
        return Aggregate(mean, (1 / updates.count,) * updates.count)


def clip_factors(updates: Updates, clip_norm: float) -> NDArray[np.float64]:
    """Returns what to scale each update by, in the order of `updates.blocks`.

    Raises `NotFinite`.
    """
    squares = np.zeros(updates.count)
    for _, rows in updates.blocks(_WIDTH):
        for index, row in enumerate(rows):
            wide = row.astype(np.float64)
            squares[index] += wide @ wide
        if not np.isfinite(squares).all():
            updates.require_finite(rows)
    norms = np.sqrt(squares)
    bound = clip_norm * _ROUNDING
    return np.where(norms > bound, bound / np.maximum(norms, bound), 1.0)


def clipped(row: Array, factor: float) -> Array:
    """Returns a row scaled down, in float32 as it is added."""
    return row if factor == 1 else (row * factor).astype(np.float32)
