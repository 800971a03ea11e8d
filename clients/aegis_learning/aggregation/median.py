"""FedMedian: the median of every coordinate.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018, Definition 1: g_k is the usual one-dimensional median of the k-th
coordinates; of an even number, the mean of the two in the middle.

While fewer than half of the updates are arbitrary, each coordinate stays within the range of the
honest ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from aegis_learning.aggregation.ranks import means
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.aggregation.rule import Aggregate, require_enough
from aegis_learning.aggregation.updates import Updates


@dataclass(frozen=True, slots=True, kw_only=True)
class FedMedian:
    """The median of at least `participants` updates of which `malicious` may be arbitrary.

    Raises `AssumptionBroken` unless 2·malicious < participants.
    """

    participants: int
    malicious: int = 0

    def __post_init__(self) -> None:
        if self.malicious < 0:
            raise AssumptionBroken("malicious", "must not be negative")
        if self.participants < self.least:
            raise AssumptionBroken(
                "participants", f"the median needs more than 2·{self.malicious}: {self.least}"
            )

    @property
    def least(self) -> int:
        """More than twice those that may be arbitrary."""
        return 2 * self.malicious + 1

    def aggregate(self, updates: Updates) -> Aggregate:
        """Returns the medians."""
        require_enough(updates, self.least)
        return Aggregate(means(updates, (updates.count - 1) // 2, updates.count // 2))
