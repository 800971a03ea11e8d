"""The privacy budget of a data set: how much all runs on it together may cost.

Reserved when a run starts, settled when it ends. The cost of a run is a vector over the orders of
Renyi differential privacy; vectors of runs add up, and only the sum becomes an epsilon. How many
steps a run pays for is decided here, for the ledger and for what is shown alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from aegis.errors import ResourceExhausted
from aegis.v1 import training_pb2
from aegis_learning import privacy
from aegis_server.training.plans import planned_steps
from aegis_server.training.store import Spending, StoredRound, StoredRun


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

    def statement(self, ledger: Iterable[Spending]) -> dict[str, str]:
        """Returns what audit records say of a data set's budget."""
        return {
            "budget_limit_epsilon": f"{self.epsilon:g}",
            "budget_delta": f"{self.delta:g}",
            "budget_spent_epsilon": f"{self.spent(ledger):.6f}",
        }

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


def steps_so_far(run: StoredRun, last: StoredRound | None) -> int:
    """Returns the private steps each participant may have sent, lost rounds included.

    A coordinator that died may have sent out its round, and its repetition, without anybody
    having written that down. A simulation answers the same order with the same bytes, which cost
    nothing again; private noise is fresh, so both count.
    """
    if last is None:
        return 0
    plan = training_pb2.RunPlan.FromString(run.plan)
    lost = 0 if plan.simulation else 2 * plan.local_steps * (run.attempt - last.attempt)
    return min(last.steps + lost, planned_steps(plan))


def steps_paid(run: StoredRun, last: StoredRound | None) -> int:
    """Returns the steps a run pays for as it stands.

    What a run that failed has sent out is not known: it pays all it reserved.
    """
    if run.state == training_pb2.Run.STATE_FAILED:
        return planned_steps(training_pb2.RunPlan.FromString(run.plan))
    return steps_so_far(run, last)


def epsilon_of(run: StoredRun, steps: int) -> float:
    """Returns what so many steps of a run cost each participant."""
    if steps == 0:
        return 0.0
    plan = training_pb2.RunPlan.FromString(run.plan)
    return privacy.epsilon(run.noise_multiplier, plan.sample_rate, steps, plan.delta)
