"""How far a number is from those of the others, in their own deviations.

Every number is compared within its round: absolute values drift from round to round, and under
privacy noise thresholds on them end up rejecting everybody. A value is held against the *other*
ones (leave one out), because among five values an outlier moves a median it is part of; and only
against `members`, the updates nobody is sure about, because 30 % of attackers on one side pull
median and deviation so far that honest updates on the other side begin to look strange.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Members = NDArray[np.bool_]

_MAD_TO_SIGMA = 1.4826


def medians_of_others(values: Vector) -> Vector:
    """Returns, for each row of (n >= 2, columns), the column medians of all the other rows."""
    n = len(values)
    ordered = np.sort(values, axis=0)

    def others(position: int) -> Vector:
        # Without a value below, all places move down by one; between equal ones it is all the same.
        below = values <= ordered[position]
        moved: Vector = np.where(below, ordered[position + 1], ordered[position])
        return moved

    middle: Vector = (others((n - 2) // 2) + others((n - 1) // 2)) / 2
    return middle


def robust_z(values: Vector, spread_min: Vector | float, members: Members | None = None) -> Vector:
    """Returns each value's distance from the median of the others, in their deviations.

    `values` has shape (n,) or (n, columns). The deviation is the median absolute one, scaled to a
    normal's sigma, never below `spread_min`. Zero where nobody else is a member.
    """
    columns = values.reshape(len(values), -1)
    peers = np.ones(len(values), bool) if members is None else members
    centres, known = _centres(columns, peers)
    # Distances of all from each one's own centre, and which of them count: shape (n, n, columns).
    counted = peers & ~np.eye(len(values), dtype=bool)
    distances = np.abs(columns[None] - centres[:, None])
    ordered = np.sort(np.where(counted[:, :, None], distances, np.inf), axis=1)
    row, count = np.arange(len(values)), np.maximum(counted.sum(axis=1), 1)
    spread = _MAD_TO_SIGMA * (ordered[row, (count - 1) // 2] + ordered[row, count // 2]) / 2
    z = np.where(known[:, None], (columns - centres) / np.maximum(spread, spread_min), 0.0)
    return z.reshape(values.shape)


def above_others(values: Vector, members: Members) -> Vector:
    """Returns how far each value of (n, columns) is above the median of the other members'.

    Above 0, where nobody else is one.
    """
    above: Vector = values - _centres(values, members)[0]
    return above


def _centres(values: Vector, members: Members) -> tuple[Vector, Members]:
    """Returns the medians of the other members for each row, and whether there are any."""
    count = int(members.sum())
    centres = np.zeros(values.shape)
    if count:
        centres[~members] = np.median(values[members], axis=0)
    if count > 1:
        centres[members] = medians_of_others(values[members])
    known: Members = count - members > 0
    centres[~known] = 0.0
    return centres, known


def ratio(above: Vector, below: Vector) -> Vector:
    """Returns above / below, and 0 where below is not positive.

    An update of zeros has no direction: call it orthogonal to everything.
    """
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
