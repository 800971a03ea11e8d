"""FedAvg with momentum at the server.

Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019, section 4: v ← β·v + Δ, then w ← w + v, with v = 0 before the first round.
Noise of one round is averaged with that of about 1 / (1 - β) rounds, which is what makes it worth
its state under differential privacy: whoever goes on without v takes other steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aegis_learning.aggregation.fedadam import MOMENTUM
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.refusals import AssumptionBroken, Overflow
from aegis_learning.aggregation.rule import Aggregate
from aegis_learning.aggregation.shares import require_share
from aegis_learning.aggregation.updates import Updates
from aegis_learning.parameters import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgM:
    """The weighted mean, and what is left of those before it.

    `state` is what the round before gave back; None before the first. Raises `AssumptionBroken`.
    """

    momentum: float
    share_max: float = 1.0
    state: Mapping[str, Array] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise AssumptionBroken("server_momentum", "must be at least 0 and below 1")
        require_share(self.share_max)
        if self.state is not None:
            _require_velocity(self.state)

    @property
    def least(self) -> int:
        """As FedAvg."""
        return 1

    def aggregate(self, updates: Updates) -> Aggregate:
        """Returns the step; its `state` is for the next round."""
        mean = FedAvg(share_max=self.share_max).aggregate(updates)
        step = mean.update
        if self.state is not None:
            velocity = self.state[MOMENTUM]
            if velocity.size != updates.size:
                raise AssumptionBroken("state", f"is not that of {updates.size} parameters")
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                step += np.float32(self.momentum) * velocity
            if not np.isfinite(step).all():
                raise Overflow("the updates of the rounds so far add up to more than a number")
        return Aggregate(step, mean.shares, {MOMENTUM: step.copy()})


def _require_velocity(state: Mapping[str, Array]) -> None:
    if state.keys() != {MOMENTUM}:
        raise AssumptionBroken("state", f"has to be {MOMENTUM}")
    velocity = state[MOMENTUM]
    if velocity.dtype != np.float32 or velocity.ndim != 1 or not np.isfinite(velocity).all():
        raise AssumptionBroken("state", "has to be a vector of finite float32")
