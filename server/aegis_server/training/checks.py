"""What a plan must not be: checks of its fields that a .proto cannot express."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from aegis.errors import FieldViolation
from aegis.v1 import training_pb2
from aegis_learning.datasets import Dataset, partition
from aegis_learning.models import UnknownModel
from aegis_server.training import strategies, units

Plan = training_pb2.RunPlan


def violations(plan: Plan, data: Dataset, names: Sequence[str]) -> Iterator[FieldViolation]:
    """Yields every field that cannot be met; `names` are the plan's simulated sites."""
    yield from _attacks(plan, names)
    yield from strategies.violations(plan, data)
    yield from _sites(plan)
    yield from _loop(plan)
    try:
        data.family(plan.model)
    except UnknownModel:
        yield FieldViolation("plan.model", "no model family has this name")
    if not units.embedded(plan):
        return
    if data.train is None:
        yield FieldViolation("plan.dataset", "its rows are at participants: sites must be ENROLLED")
        return
    try:
        partition(
            data.train,
            plan.participants,
            plan.dirichlet_alpha,
            plan.seed,
            shared=plan.simulation,
        )
    except ValueError as error:
        yield FieldViolation("plan.participants", str(error))


def _attacks(plan: Plan, names: Sequence[str]) -> Iterator[FieldViolation]:
    attacks = Counter(attack.participant for attack in plan.attacks)
    known = set(names)
    for index, attack in enumerate(plan.attacks):
        field = f"plan.attacks[{index}].participant"
        if attack.participant not in known:
            yield FieldViolation(field, f"the plan has site-1 to site-{plan.participants}")
        elif attacks[attack.participant] > 1:
            yield FieldViolation(field, "one attack a participant")


def _sites(plan: Plan) -> Iterator[FieldViolation]:
    if units.embedded(plan):
        if plan.names:
            yield FieldViolation("plan.names", "embedded sites are named site-1, site-2, …")
        if plan.HasField("app"):
            yield FieldViolation("plan.app", "embedded sites run Aegis' own application")
        return
    if plan.simulation:
        yield FieldViolation("plan.simulation", "needs embedded sites")
    if plan.names and len(plan.names) < plan.participants:
        yield FieldViolation("plan.names", f"are fewer than the {plan.participants} participants")


def _loop(plan: Plan) -> Iterator[FieldViolation]:
    if plan.per_round and plan.per_round < plan.min_participants:
        yield FieldViolation("plan.per_round", "must not be below min_participants")
    if plan.per_round > plan.participants and units.embedded(plan):
        yield FieldViolation("plan.per_round", "must not exceed participants")
    if plan.grace.ToNanoseconds() > plan.round_deadline.ToNanoseconds():
        yield FieldViolation("plan.grace", "must not be longer than round_deadline")
    if plan.quarantine_rounds and not plan.quarantine_after:
        yield FieldViolation("plan.quarantine_rounds", "needs quarantine_after")
    asked = plan.per_round or plan.participants
    if plan.rounds_each and plan.rounds_each * plan.participants < plan.rounds * asked:
        most = plan.rounds_each * plan.participants // asked
        yield FieldViolation("plan.rounds_each", f"is enough for {most} rounds of {asked}")
