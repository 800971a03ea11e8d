"""Trimmed mean: every coordinate without its largest and smallest values.

Yin, Chen, Ramchandran, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018, Definition 2: g_k is the mean of the k-th coordinates after the
largest and the smallest fraction β of them were removed. Here β·n is `malicious`, the number that
may be arbitrary, because the paper's promise needs α ≤ β < ½ for a share α of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from aegis_learning.aggregation.ranks import means
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.aggregation.rule import Aggregate, require_enough
from aegis_learning.aggregation.updates import Updates


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedMean:
    """The mean of at least `participants` updates without `malicious` values at either end.

    Raises `AssumptionBroken` unless 2·malicious < participants.
    """

    participants: int
    malicious: int

    def __post_init__(self) -> None:
        if self.malicious < 0:
            raise AssumptionBroken("malicious", "must not be negative")
        if self.participants < self.least:
            raise AssumptionBroken(
                "participants",
                f"trimming {self.malicious} at either end needs more than twice as many:"
                f" {self.least}",
            )

    @property
    def least(self) -> int:
        """Something has to be left between the ends."""
        return 2 * self.malicious + 1

    def aggregate(self, updates: Updates) -> Aggregate:
        """Returns the trimmed means."""
        require_enough(updates, self.least)
        return Aggregate(means(updates, self.malicious, updates.count - 1 - self.malicious))
