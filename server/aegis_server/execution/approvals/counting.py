"""Who still has to approve: arithmetic on what is demanded and what was given."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from aegis.v1 import envelope_pb2
from aegis_policy.obligations import obligation_of

# As many as a decision and a request to the executor can carry.
DEMANDS_MAX = 8
APPROVALS_MAX = 16


class Demand(NamedTuple):
    """So many different people of a group, in a step; `detached`: with their own keys."""

    step: int
    group: str
    detached: bool
    needed: int

    def message(self) -> envelope_pb2.ApprovalStep:
        """Returns it as it is signed and shown."""
        return envelope_pb2.ApprovalStep(
            step=self.step, group=self.group, needed=self.needed, detached=self.detached
        )


class Given(NamedTuple):
    """One person's approval."""

    approver: str
    step: int
    group: str
    detached: bool


class Missing(NamedTuple):
    """A demand, and how many have met it so far."""

    demand: Demand
    given: int

    def __str__(self) -> str:
        key = " with their own key" if self.demand.detached else ""
        return f"{self.given} of {self.demand.needed} of {self.demand.group} approved{key}"


def demands_of(actions: Iterable[str]) -> tuple[Demand, ...]:
    """Returns what actions such as `without_1_oncall` demand together, in the order of steps.

    The larger of two numbers counts, and who signs for a step also approves it.
    """
    most: dict[tuple[int, str, bool], int] = {}
    for obligation in filter(None, map(obligation_of, actions)):
        key = obligation.step, obligation.group, obligation.detached
        most[key] = max(most.get(key, 0), obligation.needed)
    return tuple(
        Demand(step, group, detached, needed)
        for (step, group, detached), needed in sorted(most.items())
        if detached or needed > most.get((step, group, True), 0)
    )


def read_demands(stored: bytes) -> tuple[Demand, ...]:
    """Returns what `written_demands` wrote."""
    steps = envelope_pb2.ActionDecision.FromString(stored).steps
    return tuple(Demand(each.step, each.group, each.detached, each.needed) for each in steps)


def written_demands(demands: Iterable[Demand]) -> bytes:
    """Returns demands as they are stored."""
    steps = [demand.message() for demand in demands]
    return envelope_pb2.ActionDecision(steps=steps).SerializeToString()


def missing(demands: Sequence[Demand], given: Collection[Given]) -> list[Missing]:
    """Returns the demands that are not met, in the order of steps."""
    counts = [Missing(demand, _count(demand, given)) for demand in demands]
    return [each for each in counts if each.given < each.demand.needed]


def askable(demands: Sequence[Demand], given: Collection[Given]) -> list[Missing]:
    """Returns the unmet demands of the first step that has any: who may speak now."""
    unmet = missing(demands, given)
    return [each for each in unmet if each.demand.step == unmet[0].demand.step]


def _count(demand: Demand, given: Collection[Given]) -> int:
    return len(
        {
            each.approver
            for each in given
            if (each.step, each.group) == (demand.step, demand.group)
            and (each.detached or not demand.detached)
        }
    )


def shortage(
    demands: Sequence[Demand], eligible: Mapping[Demand, Collection[str]]
) -> Demand | None:
    """Returns a demand that can never be met, or None: nobody speaks twice for one action.

    Each place to be filled takes a person of its own, somebody else moving over where they can
    (augmenting paths, as for every assignment).
    """
    holder: dict[str, Demand] = {}

    def seat(demand: Demand, passed: set[str]) -> bool:
        for person in eligible[demand]:
            if person in passed:
                continue
            passed.add(person)
            taken = holder.get(person)
            if taken is None or seat(taken, passed):
                holder[person] = demand
                return True
        return False

    signed = {(each.step, each.group): each.needed for each in demands if each.detached}
    for demand in demands:
        # Who approves with a key of their own also counts among those who need none.
        both = 0 if demand.detached else signed.get((demand.step, demand.group), 0)
        for _ in range(demand.needed - both):
            if not seat(demand, set()):
                return demand
    return None
