"""What every rule takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from aegis_learning.aggregation.refusals import TooFewUpdates
from aegis_learning.aggregation.updates import Updates
from aegis_learning.parameters import Array, Parameters


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The update that leads from the base to the next model.

    `shares` is the part each update has in it, in the order they were given; empty for rules that
    choose anew for every coordinate. `state` is what the rule remembers for the next round.
    """

    update: Array
    shares: tuple[float, ...] = ()
    state: Parameters | None = None


class Rule(Protocol):
    """Turns the updates of a round into one; raises `AggregationRefused`."""

    @property
    def least(self) -> int:
        """How few updates it can do with."""

    def aggregate(self, updates: Updates) -> Aggregate:
        """Returns the round's update."""


def require_enough(updates: Updates, least: int) -> None:
    """Raises `TooFewUpdates`."""
    if updates.count < least:
        raise TooFewUpdates(updates.count, least)
