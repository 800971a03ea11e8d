"""Krum: the update whose neighbours are closest.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent", NIPS 2017, section 4: the score of an update is the sum of its squared distances
to the n − f − 2 updates closest to it, and the update with the smallest score is the result. Needs
2f + 2 < n (Proposition 4.2). The paper breaks ties by the smallest identifier; here it is the first
in the order of `Updates`, so that nobody gains by an identifier.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aegis_learning.aggregation.distances import Distances, squared
from aegis_learning.aggregation.mean import combine
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.aggregation.rule import Aggregate, require_enough
from aegis_learning.aggregation.updates import Updates


@dataclass(frozen=True, slots=True, kw_only=True)
class Krum:
    """The central one of at least `participants` updates, of which `malicious` may be arbitrary.

    Raises `AssumptionBroken` unless participants ≥ 2·malicious + 3.
    """

    participants: int
    malicious: int

    def __post_init__(self) -> None:
        require_neighbours(self.participants, self.malicious)

    @property
    def least(self) -> int:
        """As the paper has it."""
        return 2 * self.malicious + 3

    def aggregate(self, updates: Updates) -> Aggregate:
        """Returns the chosen update."""
        require_enough(updates, self.least)
        return mean_of_best(updates, self.malicious, 1)


def require_neighbours(participants: int, malicious: int) -> None:
    """Raises `AssumptionBroken` unless Krum promises something for these numbers."""
    if malicious < 0:
        raise AssumptionBroken("malicious", "must not be negative")
    if participants < 2 * malicious + 3:
        raise AssumptionBroken(
            "participants", f"Krum needs n ≥ 2·{malicious} + 3: {2 * malicious + 3}"
        )


def scores(
    distances: Distances, malicious: int, alive: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Returns the score of each update among those `alive`; infinity for the others.

    The sum always has a summand while there is a neighbour: the recursion of Bulyan ends with
    fewer updates than Krum asks for.
    """
    living = np.ones(len(distances), dtype=bool) if alive is None else alive
    count = int(living.sum())
    neighbours = min(max(count - malicious - 2, 1), count - 1)
    others = np.where(np.eye(len(distances), dtype=bool) | ~living[None, :], np.inf, distances)
    nearest = np.sort(others, axis=1)[:, :neighbours]
    return np.where(living, nearest.sum(axis=1), np.inf)


def mean_of_best(updates: Updates, malicious: int, selected: int) -> Aggregate:
    """Returns the mean of the `selected` updates with the smallest scores."""
    order = np.argsort(scores(squared(updates), malicious), kind="stable")
    return mean_of(updates, [int(position) for position in order[:selected]])


def mean_of(updates: Updates, chosen: Iterable[int]) -> Aggregate:
    """Returns the mean of the updates at these positions of `updates.order`."""
    positions = sorted(chosen)
    share = 1 / len(positions)
    shares = np.zeros(updates.count)
    shares[positions] = share
    mean = combine(updates.take(positions), [share] * len(positions))
    return Aggregate(mean, updates.as_given(shares))
