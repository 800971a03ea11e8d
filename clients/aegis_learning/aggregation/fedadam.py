"""FedAdam: the mean update is a gradient to the server, which steps by Adam.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated Optimization",
ICLR 2021, Algorithm 2 (FedAdam):

    m ← β1·m + (1 − β1)·Δ      v ← β2·v + (1 − β2)·Δ²      x ← x + η·m / (√v + τ)

with v = τ² before the first round, and no correction of bias, as there. The two moments are the
state of the run: whoever goes on without them takes other steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.refusals import AssumptionBroken, Overflow
from aegis_learning.aggregation.rule import Aggregate
from aegis_learning.aggregation.shares import require_share
from aegis_learning.aggregation.updates import Updates
from aegis_learning.parameters import Array

MOMENTUM, VARIANCE = "momentum", "variance"


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdam:
    """A step of Adam along the weighted mean.

    `state` is what the round before gave back; None before the first. Raises `AssumptionBroken`.
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    share_max: float = 1.0
    state: Mapping[str, Array] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise AssumptionBroken("learning_rate", "must be above 0")
        for field, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= beta < 1:
                raise AssumptionBroken(field, "must be at least 0 and below 1")
        # Its square has to be a float32 that is not zero.
        if not 1e-15 <= self.tau <= 1:
            raise AssumptionBroken("tau", "must be at least 1e-15 and at most 1")
        require_share(self.share_max)
        if self.state is not None:
            _require_moments(self.state)

    @property
    def least(self) -> int:
        """As FedAvg."""
        return 1

    def aggregate(self, updates: Updates) -> Aggregate:
        """Returns the step; its `state` is for the next round."""
        mean = FedAvg(share_max=self.share_max).aggregate(updates)
        if self.state is None:
            momentum = np.zeros(updates.size, np.float32)
            variance = np.full(updates.size, self.tau**2, np.float32)
        else:
            momentum, variance = self.state[MOMENTUM].copy(), self.state[VARIANCE].copy()
            if momentum.size != updates.size:
                raise AssumptionBroken("state", f"is not that of {updates.size} parameters")
        delta = mean.update
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            momentum *= np.float32(self.beta1)
            momentum += np.float32(1 - self.beta1) * delta
            variance *= np.float32(self.beta2)
            np.square(delta, out=delta)
            delta *= np.float32(1 - self.beta2)
            variance += delta
            step = np.sqrt(variance, out=delta)
            step += np.float32(self.tau)
            np.divide(momentum, step, out=step)
            step *= np.float32(self.learning_rate)
        if not (np.isfinite(step).all() and np.isfinite(variance).all()):
            raise Overflow("the updates are too long for their squares to be numbers")
        return Aggregate(step, mean.shares, {MOMENTUM: momentum, VARIANCE: variance})


def _require_moments(state: Mapping[str, Array]) -> None:
    if state.keys() != {MOMENTUM, VARIANCE}:
        raise AssumptionBroken("state", f"has to be {MOMENTUM} and {VARIANCE}")
    momentum, variance = state[MOMENTUM], state[VARIANCE]
    for values in (momentum, variance):
        if values.dtype != np.float32 or values.ndim != 1 or values.shape != momentum.shape:
            raise AssumptionBroken("state", "has to be two float32 vectors of one length")
    if not (np.isfinite(momentum).all() and np.isfinite(variance).all()) or variance.min() < 0:
        raise AssumptionBroken("state", "holds numbers that are no moments")
