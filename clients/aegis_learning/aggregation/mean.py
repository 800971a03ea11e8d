"""Sums of updates with a factor each, at the speed of memory.

Every update is read once. What is added up stays in the cache, so memory sees one pass over the
updates, as it would for a mean without weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aegis_learning.aggregation.updates import Updates
from aegis_learning.parameters import Array

_WIDTH = 1 << 17
# Factors that float32 holds without loss; others are applied in float64, which is slow and rare.
_SMALL, _LARGE = 1e-30, 1e30


def combine(updates: Updates, factors: Sequence[float] | NDArray[np.float64]) -> Array:
    """Returns the sum of factor times update; factors are in the order of `updates.blocks`.

    Raises `NotFinite` or `Overflow`.
    """
    total = np.empty(updates.size, np.float32)
    product = np.empty(min(_WIDTH, updates.size), np.float32)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for start, rows in updates.blocks(_WIDTH):
            into = total[start : start + rows[0].size]
            _multiply(rows[0], float(factors[0]), into)
            for row, factor in zip(rows[1:], factors[1:], strict=True):
                scaled = product[: row.size]
                _multiply(row, float(factor), scaled)
                np.add(into, scaled, out=into)
            # Nothing that is not finite can have got lost: not even zero times infinity is zero.
            if not np.isfinite(into).all():
                updates.blame(rows)
    return total


def _multiply(row: Array, factor: float, out: Array) -> None:
    if factor == 0 or _SMALL < abs(factor) < _LARGE:
        np.multiply(row, np.float32(factor), out=out)
    else:
        np.multiply(row, factor, out=out, dtype=np.float64, casting="same_kind")
