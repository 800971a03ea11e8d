"""Federated averaging: the mean of the updates, weighted by their rows.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks
from Decentralized Data", AISTATS 2017, Algorithm 1: w ← Σ (n_k / n) w_k. With updates in place of
models it is the same sum, because the parts add up to one.

It trusts everybody: a single update moves the result anywhere. `share_max` bounds how much of the
mean is one participant's, however many rows it has.
"""

from __future__ import annotations

from dataclasses import dataclass

from aegis_learning.aggregation.mean import combine
from aegis_learning.aggregation.rule import Aggregate
from aegis_learning.aggregation.shares import bounded, require_share
from aegis_learning.aggregation.updates import Updates


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg:
    """The weighted mean; raises `AssumptionBroken` for a `share_max` that is no share."""

    share_max: float = 1.0

    def __post_init__(self) -> None:
        require_share(self.share_max)

    @property
    def least(self) -> int:
        """One update has a mean."""
        return 1

    def aggregate(self, updates: Updates) -> Aggregate:
        """Returns the mean."""
        shares = bounded(updates.weights, self.share_max)
        mean = combine(updates, [shares[index] for index in updates.order])
        return Aggregate(mean, tuple(float(share) for share in shares))
