"""What a coordinator adds to a round by itself: noise at the server, and the centre of the rows."""

from __future__ import annotations

from aegis.v1 import training_pb2
from aegis_learning.aggregation.private_mean import Noise
from aegis_learning.datasets import Dataset
from aegis_participant.randomness import KeyStream

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
