"""Which part each update has in a weighted mean, and that no part is larger than allowed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from aegis_learning.aggregation.refusals import AssumptionBroken


def require_share(share_max: float) -> None:
    """Raises `AssumptionBroken` unless it is a share."""
    if not 0 < share_max <= 1:
        raise AssumptionBroken("share_max", "must be above 0 and at most 1")


def bounded(weights: NDArray[np.float64], share_max: float) -> NDArray[np.float64]:
    """Returns shares in proportion to the weights, none above `share_max`, 1 together.

    What the largest have to give up goes to the others in proportion. When there are too few
    updates for such a bound (or too few of any weight), those that weigh something share equally.
    """
    largest = weights.max()
    relative = weights / largest
    shares: NDArray[np.float64] = relative / math.fsum(relative)
    heavy = int(np.count_nonzero(shares))
    if share_max * heavy <= 1:
        equal: NDArray[np.float64] = (shares > 0).astype(np.float64) / heavy
        return equal
    capped: NDArray[np.bool_] = np.zeros(len(shares), dtype=bool)
    while (above := ~capped & (shares > share_max)).any():
        capped |= above
        rest = np.where(capped, 0.0, relative)
        rest /= rest.max()  # what is left may be too small to be divided exactly
        shares = np.where(
            capped, share_max, rest * ((1 - share_max * capped.sum()) / math.fsum(rest))
        )
    return shares
