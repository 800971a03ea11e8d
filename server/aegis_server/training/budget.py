"""The privacy budget of a data set: how much all runs on it together may cost.

Reserved when a run starts, settled when it ends. The cost of a run is a vector over the orders of
Renyi differential privacy; vectors of runs add up, and only the sum becomes an epsilon.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from aegis.errors import ResourceExhausted
from aegis_learning import privacy
from aegis_server.training.store import Spending


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that the runs on any one data set may cost together, as (epsilon, delta)."""

    epsilon: float = 20.0
    delta: float = 1e-3

    def spent(self, ledger: Iterable[Spending]) -> float:
        """Returns epsilon at the budget's delta of everything reserved or used."""
        cost = np.zeros_like(privacy.ORDERS)
        for line in ledger:
            cost += privacy.rdp(line.noise_multiplier, line.sample_rate, line.steps)
        return privacy.epsilon_of(cost, self.delta)

    def check(self, ledger: list[Spending], wanted: Spending) -> None:
        """Raises `ResourceExhausted` (PRIVACY_BUDGET_EXHAUSTED) when `wanted` would overdraw."""
        if wanted.simulation:
            return
        if self.spent([*ledger, wanted]) > self.epsilon:
            spent = self.spent(ledger)
            raise ResourceExhausted(
                "PRIVACY_BUDGET_EXHAUSTED",
                f"{wanted.dataset} has spent epsilon {spent:.2f} of {self.epsilon:g} at delta"
                f" {self.delta:g}: this run would exceed the limit",
                dataset=wanted.dataset,
                participant="every site",
                epsilon_spent=f"{spent:.4f}",
                epsilon_limit=f"{self.epsilon:g}",
            )
