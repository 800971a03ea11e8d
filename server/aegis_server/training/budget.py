"""How many private steps a run pays for: for the ledger and for what is shown alike."""

from __future__ import annotations

from collections.abc import Mapping

from aegis.v1 import training_pb2
from aegis_server.privacy.book import ALL
from aegis_server.training import units
from aegis_server.training.plans import planned_steps
from aegis_server.training.store import StoredRound, StoredRun


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


def settlement(run: StoredRun, steps: int) -> Mapping[str, int]:
    """Returns what `Ledger.settle` is told of a run that pays for `steps`."""
    plan = training_pb2.RunPlan.FromString(run.plan)
    return {ALL: units.mechanism_of(plan, run.noise_multiplier, steps).steps}


def epsilon_of(run: StoredRun, steps: int) -> float:
    """Returns what so many steps of a run cost each participant."""
    plan = training_pb2.RunPlan.FromString(run.plan)
    return units.epsilon_of(plan, run.noise_multiplier, steps)
