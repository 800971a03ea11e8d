"""What a plan promises, and whether it can be kept: checks that a .proto cannot express."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

from aegis.errors import FieldViolation, InvalidArgument
from aegis.v1 import training_pb2
from aegis_learning import privacy
from aegis_learning.datasets import UnknownDataset, load, partition
from aegis_learning.models import UnknownModel
from aegis_server.training import strategies, units


def participant_names(plan: training_pb2.RunPlan) -> list[str]:
    """Returns the names of the plan's simulated sites."""
    return [f"site-{number}" for number in range(1, plan.participants + 1)]


def planned_steps(plan: training_pb2.RunPlan) -> int:
    """Returns the private steps of one participant in the whole run; never to be exceeded."""
    return plan.rounds * plan.local_steps


@lru_cache(maxsize=32)
def enrolled(plan: bytes) -> Mapping[str, int]:
    """Returns how many rows each site of a serialised plan has: counted by us, never claimed."""
    parsed = training_pb2.RunPlan.FromString(plan)
    shares = partition(
        load(parsed.dataset).shared, parsed.participants, parsed.dirichlet_alpha, parsed.seed
    )
    names = participant_names(parsed)
    return MappingProxyType({n: len(share) for n, share in zip(names, shares, strict=True)})


def canonical(plan: training_pb2.RunPlan) -> bytes:
    """Returns bytes that are equal for equal plans."""
    return plan.SerializeToString(deterministic=True)


def noise_of(plan: training_pb2.RunPlan) -> float:
    """Returns the noise multiplier that keeps all planned steps within the target.

    Takes tens of milliseconds. Raises `InvalidArgument` (FIELD_INVALID) naming every field of the
    plan that cannot be met.
    """
    violations = list(_violations(plan))
    noise = 0.0
    try:
        noise = units.server_noise(plan)
        if not units.only_at_server(plan):
            noise = privacy.noise_multiplier(
                plan.target_epsilon, plan.delta, plan.sample_rate, planned_steps(plan)
            )
    except ValueError as error:
        violations.append(FieldViolation("plan.target_epsilon", str(error)))
    if violations:
        text = "; ".join(f"{v.field}: {v.description}" for v in violations[:3])
        raise InvalidArgument("FIELD_INVALID", text, violations=violations)
    return noise


def _violations(plan: training_pb2.RunPlan) -> Iterator[FieldViolation]:
    names = Counter(attack.participant for attack in plan.attacks)
    known = set(participant_names(plan))
    for index, attack in enumerate(plan.attacks):
        field = f"plan.attacks[{index}].participant"
        if attack.participant not in known:
            yield FieldViolation(field, f"the plan has site-1 to site-{plan.participants}")
        elif names[attack.participant] > 1:
            yield FieldViolation(field, "one attack a participant")
    yield from strategies.violations(plan)
    try:
        data = load(plan.dataset)
    except UnknownDataset:
        yield FieldViolation("plan.dataset", "no data set has this name")
        return
    try:
        data.family(plan.model)
    except UnknownModel:
        yield FieldViolation("plan.model", "no model family has this name")
    try:
        partition(data.shared, plan.participants, plan.dirichlet_alpha, plan.seed)
    except ValueError as error:
        yield FieldViolation("plan.participants", str(error))
