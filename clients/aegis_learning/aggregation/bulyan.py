"""Bulyan: Krum again and again, then what is closest to the median of every coordinate.

El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium",
ICML 2018, section 4:

1. θ = n − 2f times: what Krum chooses among the updates that are left is moved to the selection;
2. each coordinate of the result is the mean of the β = θ − 2f values of the selection that are
   closest to its median.

Needs n ≥ 4f + 3. Of two values equally far from the median the smaller is taken. At the end of step
1 only 2f + 1 updates are left, fewer than Krum's own 2f + 3; the score then has one neighbour, and
none when one update is left, which is chosen without a score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aegis_learning.aggregation.distances import Distances, squared
from aegis_learning.aggregation.krum import scores
from aegis_learning.aggregation.ranks import Columns, mean_of
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.aggregation.rule import Aggregate, require_enough
from aegis_learning.aggregation.updates import Rows, Updates
from aegis_learning.parameters import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulyan:
    """Bulyan over Krum, for at least `participants` updates of which `malicious` may be arbitrary.

    Raises `AssumptionBroken` unless participants ≥ 4·malicious + 3.
    """

    participants: int
    malicious: int

    def __post_init__(self) -> None:
        if self.malicious < 0:
            raise AssumptionBroken("malicious", "must not be negative")
        if self.participants < self.least:
            raise AssumptionBroken(
                "participants", f"Bulyan needs n ≥ 4·{self.malicious} + 3: {self.least}"
            )

    @property
    def least(self) -> int:
        """As the paper has it."""
        return 4 * self.malicious + 3

    def aggregate(self, updates: Updates) -> Aggregate:
        """Returns the means around the medians of the selection."""
        require_enough(updates, self.least)
        selection = updates.take(select(squared(updates), self.malicious))
        columns = Columns(selection, 0, selection.count - 1)
        result = np.empty(updates.size, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for start, rows in selection.blocks(columns.width):
                values = columns.sorted(rows)
                around_median(values, 2 * self.malicious, result[start : start + values[0].size])
        return Aggregate(result)


def select(distances: Distances, malicious: int) -> list[int]:
    """Returns the n − 2f updates that Krum chooses one after the other."""
    alive = np.ones(len(distances), dtype=bool)
    chosen: list[int] = []
    for _ in range(len(distances) - 2 * malicious):
        best = int(np.argmin(scores(distances, malicious, alive)))
        chosen.append(best)
        alive[best] = False
    return chosen


def around_median(values: Rows, dropped: int, out: Array) -> None:
    """Writes, for each column of sorted rows, the mean of all but the `dropped` farthest ones.

    The closest are neighbours in the order, so they are a window of it. It begins at the left and
    moves on while the value it would lose is farther from the median than the one it would gain;
    once it stays it stays, because the one gets closer and the other farther.
    """
    kept = len(values) - dropped
    median = np.empty_like(out)
    mean_of(values[(len(values) - 1) // 2 : len(values) // 2 + 1], median)
    window = list(values[:kept])
    for step in range(dropped):
        lost, gained = values[step], values[step + kept]
        moves = (median - lost) > (gained - median)
        window[step % kept] = np.where(moves, gained, window[step % kept])
    mean_of(window, out)
