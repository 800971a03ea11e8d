"""How much of an update's length counts beside the others': up to twice the median.

Norm bounding (Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", 2019,
section 4) with a bound that follows the round. As long as no more than half of them are long, none
moves the mean by more than two ordinary ones do, however far it goes; and honest updates that a few
rows made long no longer pull the model about. The median of an even number is the lower one of the
two in the middle: of two updates the longer counts up to twice the shorter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: In medians of the round's lengths.
LONGEST = 2.0


def factors(lengths: ArrayLike, members: Sequence[int]) -> NDArray[np.float64]:
    """Returns what to scale each update by, shape (n,): 1 up to the bound, below 1 beyond it.

    `lengths` are Euclidean norms, shape (n,); the median is that of the `members`, by position.
    Without members nothing is scaled.
    """
    known = np.asarray(lengths, dtype=np.float64)
    if not len(members):
        return np.ones_like(known)
    bound = LONGEST * float(np.sort(known[list(members)])[(len(members) - 1) // 2])
    return np.where(known > bound, bound / np.maximum(known, np.finfo(float).tiny), 1.0)
