"""FLTrust: trust begins with an update of our own.

Cao, Fang, Liu, Gong, "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS
2021, section IV and Algorithm 2: the server trains on a small clean root data set. With g0 its
update, an update g has the trust score TS = max(0, cos(g, g0)), is scaled to the length of g0, and
the result is the mean of the scaled updates weighted by their scores.

However many are malicious, the result is no longer than g0. An update of zeros has no direction and
no trust. The paper does not say what to do when nobody is trusted: the round is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aegis_learning.aggregation.mean import combine
from aegis_learning.aggregation.refusals import AssumptionBroken, IllShaped, NobodyTrusted
from aegis_learning.aggregation.rule import Aggregate
from aegis_learning.aggregation.updates import Updates
from aegis_learning.parameters import Array

_WIDTH = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class FLTrust:
    """The mean of updates by their likeness to `root`, in its length.

    Raises `AssumptionBroken` when the root update is not a finite vector with a length.
    """

    root: Array = field(repr=False)

    def __post_init__(self) -> None:
        if self.root.ndim != 1 or self.root.dtype != np.float32:
            raise AssumptionBroken("root", "has to be a vector of float32")
        if not np.isfinite(self.root).all():
            raise AssumptionBroken("root", "holds NaN or infinity")
        if not self.root.any():
            raise AssumptionBroken("root", "is zero: it points nowhere")

    @property
    def least(self) -> int:
        """One trusted update is enough."""
        return 1

    def aggregate(self, updates: Updates) -> Aggregate:
        """Returns the trusted mean; raises `NobodyTrusted` when no update points along the root."""
        if updates.size != self.root.size:
            raise IllShaped(0, f"has {updates.size} numbers, the root update {self.root.size}")
        products, lengths = self._compared(updates)
        root_length = float(np.linalg.norm(self.root.astype(np.float64)))
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine = np.where(lengths > 0, products / (lengths * root_length), 0.0)
            trust = np.clip(cosine, 0.0, 1.0)
            total = trust.sum()
            if not total > 0:
                raise NobodyTrusted("no update points where the root update does")
            factors = np.where(trust > 0, trust / total * (root_length / lengths), 0.0)
        return Aggregate(combine(updates, factors), updates.as_given(trust / total))

    def _compared(self, updates: Updates) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        products, squares = np.zeros(updates.count), np.zeros(updates.count)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for start, rows in updates.blocks(_WIDTH):
                root = self.root[start : start + rows[0].size]
                for index, given in enumerate(rows):
                    # The product of the same numbers differs in its last bit with their stride.
                    row = np.ascontiguousarray(given)
                    product, square = float(np.dot(row, root)), float(np.dot(row, row))
                    # Too long or too short for float32, or not a number at all.
                    if not (np.isfinite(product) and 1e-20 < square < np.inf):
                        updates.require_finite(rows)
                        exact = row.astype(np.float64)
                        product, square = float(exact @ root), float(exact @ exact)
                    products[index] += product
                    squares[index] += square
        return products, np.sqrt(squares)
