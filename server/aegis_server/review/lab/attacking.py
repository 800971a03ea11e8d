"""What dishonest sites know, and what an attack is.

Attackers of a run know each other: they see what each of them would honestly have sent, and nothing
of the others but the models of the past.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from aegis_learning.models import Family
from aegis_learning.parameters import Array, Parameters
from aegis_server.review.lab.sites import Plan, Sites, train
from aegis_server.review.lab.worlds import Trigger


@dataclass(frozen=True, slots=True)
class View:
    """A round as its m attackers see it.

    `honest` is what they would have sent, shape (m, d); `sites` are their rows; `total` is how many
    sites there are; `previous` is what the last round changed about the model, None in the first.
    """

    round: int
    family: Family
    base: Parameters
    honest: Array
    sites: Sites
    total: int
    plan: Plan
    trigger: Trigger
    previous: Array | None
    random: np.random.Generator

    def __len__(self) -> int:
        return len(self.honest)

    def train(self, sites: Sites, *, noise: bool = True) -> Array:
        """Returns the updates these sites would send; without `noise` they break their promise."""
        plan = self.plan if noise else replace(self.plan, noise_multiplier=0.0)
        return train(self.family, self.base, sites, plan, self.random)

    @property
    def deviations(self) -> Array:
        """How each attacker's honest update differs from their mean, shape (m, d).

        Colluders that all send one vector are found by that alone. Each adds its own deviation, so
        they differ as honest sites do.
        """
        deviations: Array = self.honest - self.honest.mean(axis=0)
        return deviations

    def part(self, attackers: slice) -> View:
        """Returns what some of the attackers see of it."""
        positions = np.arange(len(self))[attackers]
        return replace(self, honest=self.honest[attackers], sites=self.sites.take(positions))


class Attack(Protocol):
    """A way to attack. An attacker that sends what it would honestly have sent does not attack."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def poison(self, view: View) -> Array:
        """Returns what the attackers send, shape (m, d)."""
