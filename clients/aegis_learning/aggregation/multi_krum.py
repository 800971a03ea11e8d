"""Multi-Krum: the mean of the updates with the best scores of Krum.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent", NIPS 2017, section 5: the m updates with the smallest scores are averaged; one is
Krum, all n are the mean. The paper's experiments take m = n − f, the most that leaves room for
f attackers outside, and that is the default and the upper bound here. The mean is not weighted: a
weight is what an attacker would inflate.
"""

from __future__ import annotations

from dataclasses import dataclass

from aegis_learning.aggregation.krum import mean_of_best, require_neighbours
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.aggregation.rule import Aggregate, require_enough
from aegis_learning.aggregation.updates import Updates


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiKrum:
    """The mean of the `selected` best of at least `participants` updates; 0 means n − malicious.

    Raises `AssumptionBroken` unless participants ≥ 2·malicious + 3 and
    selected ≤ participants − malicious.
    """

    participants: int
    malicious: int
    selected: int = 0

    def __post_init__(self) -> None:
        require_neighbours(self.participants, self.malicious)
        most = self.participants - self.malicious
        if not 0 <= self.selected <= most:
            raise AssumptionBroken(
                "selected", f"must be at most n - f, {most}; more would take in the malicious"
            )

    @property
    def least(self) -> int:
        """As Krum, and so many that the selected are no more than n - f of them."""
        return max(2 * self.malicious + 3, self.selected + self.malicious)

    def aggregate(self, updates: Updates) -> Aggregate:
        """Returns the mean of the selected."""
        require_enough(updates, self.least)
        return mean_of_best(
            updates, self.malicious, self.selected or updates.count - self.malicious
        )
