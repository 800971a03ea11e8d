"""What a plan promises: who takes part in it, how many private steps it has, how much noise."""

from __future__ import annotations

from aegis.errors import FieldViolation, InvalidArgument
from aegis.v1 import training_pb2
from aegis_learning import privacy
from aegis_learning.datasets import Dataset, UnknownDataset, load, partition
from aegis_server.training import checks, units


def participant_names(plan: training_pb2.RunPlan) -> list[str]:
    """Returns the names of the plan's simulated sites."""
    return [f"site-{number}" for number in range(1, plan.participants + 1)]


def planned_steps(plan: training_pb2.RunPlan) -> int:
    """Returns the private steps of one participant in the whole run; never to be exceeded."""
    return min(plan.rounds, plan.rounds_each or plan.rounds) * plan.local_steps


def dealt(plan: training_pb2.RunPlan, data: Dataset) -> dict[str, int]:
    """Returns how many rows each embedded site has: counted by us, never claimed."""
    shares = partition(
        data.shared,
        plan.participants,
        plan.dirichlet_alpha,
        plan.seed,
        shared=plan.simulation,
    )
    names = participant_names(plan)
    return {name: len(share) for name, share in zip(names, shares, strict=True)}


def canonical(plan: training_pb2.RunPlan) -> bytes:
    """Returns bytes that are equal for equal plans."""
    return plan.SerializeToString(deterministic=True)


def noise_of(plan: training_pb2.RunPlan, data: Dataset | None = None) -> float:
    """Returns the noise multiplier that keeps all planned steps within the target.

    `data` is what the plan is about; without it, what ships under that name. Takes tens of
    milliseconds. Raises `InvalidArgument` (FIELD_INVALID) naming every field of the plan that
    cannot be met.
    """
    violations: list[FieldViolation] = []
    noise = 0.0
    try:
        found = data or load(plan.dataset)
        violations += checks.violations(plan, found, participant_names(plan))
    except UnknownDataset:
        violations.append(FieldViolation("plan.dataset", "no data set has this name"))
    try:
        noise = units.server_noise(plan)
        if not units.only_at_server(plan):
            noise = privacy.noise_multiplier(
                plan.target_epsilon, plan.delta, plan.sample_rate, planned_steps(plan)
            )
    except ValueError as error:
        violations.append(FieldViolation("plan.target_epsilon", str(error)))
    if violations:
        raise refused(violations)
    return noise


def refused(violations: list[FieldViolation]) -> InvalidArgument:
    """Returns the error that names these fields of a plan."""
    text = "; ".join(f"{v.field}: {v.description}" for v in violations[:3])
    return InvalidArgument("FIELD_INVALID", text, violations=violations)
