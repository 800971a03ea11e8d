"""Noise and centre of a run: what a coordinator adds by itself, what participants promise."""

from __future__ import annotations

import math
from collections.abc import Mapping

from aegis.v1 import training_pb2
from aegis_learning.aggregation.private_mean import Noise
from aegis_learning.datasets import Dataset
from aegis_participant.randomness import KeyStream
from aegis_server.review.case import Local
from aegis_server.training import units

_SERVER = -1


def noise_of(plan: training_pb2.RunPlan, number: int, repeat: int) -> Noise:
    """Returns the server's own noise for a try of a round: secret, but for a simulation's."""
    stream = KeyStream.secret()
    if plan.simulation:
        # No site has this number.
        stream = KeyStream.seeded(plan.seed, number, repeat, _SERVER)
    return lambda count: stream.normal((count,))


def centre_of(plan: training_pb2.RunPlan, data: Dataset) -> tuple[float, ...]:
    """Returns the row participants train around; empty when rows stay as they are."""
    if not plan.centred:
        return ()
    return tuple(float(value) for value in data.golden.x.mean(axis=0, dtype=float))


def local_of(plan: training_pb2.RunPlan, data: Dataset) -> Local:
    """Returns how participants train."""
    return Local(plan.local_steps, plan.learning_rate, centre_of(plan, data))


def noises_of(
    plan: training_pb2.RunPlan, noise_multiplier: float, examples: Mapping[str, int]
) -> dict[str, float]:
    """Returns the standard deviation each number of an honest update has by its noise alone.

    `examples` are the rows by participant. Every step of DP-SGD adds noise of noise_multiplier
    times clip_norm to a sum over the expected batch, and steps add up as independent noise does.
    """
    spread = (
        plan.learning_rate
        * math.sqrt(plan.local_steps)
        * units.site_noise(plan, noise_multiplier)
        * plan.clip_norm
    )
    return {
        name: spread / (plan.sample_rate * rows) if rows else 0.0 for name, rows in examples.items()
    }
