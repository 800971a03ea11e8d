"""What an upgrade brings: rules of a fresh installation that this one never had.

Three sides are compared: the baseline of this program, the rules there are, and every line there
ever was. A line of the baseline that was never there is new and comes in beside its neighbours. One
that was there and is not any more, or is another by now, was somebody's decision: it stays out and
is named.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from aegis.errors import FailedPrecondition
from aegis_policy import Line
from aegis_server.policy.drafts import Draft
from aegis_server.policy.places import Slot, filled, identity_of
from aegis_server.policy.store import Policy


@dataclass(frozen=True, slots=True)
class Adoption:
    """The draft, and what it adds and leaves out of the baseline."""

    draft: Draft
    added: list[Line]
    left_out: list[Line]


def adopted(
    before: Policy, baseline: Sequence[Line], known: Collection[tuple[str, ...]]
) -> Adoption:
    """Returns what adopting the baseline comes to; `known` are identities of all times.

    Raises `FailedPrecondition` (POLICY_NOT_COMPILED) for rules of another model.
    """
    if before.revision.model_conf:
        raise FailedPrecondition(
            "POLICY_NOT_COMPILED", "this policy has a model of its own, the baseline is for Aegis'"
        )
    now = {identity_of(placed.line): placed.line for placed in before.placed}
    slots = [Slot(*placed) for placed in before.placed]
    present = set(now)
    added, left_out = [], []
    for index, line in enumerate(baseline):
        identity = identity_of(line)
        if now.get(identity) == line:
            continue
        if identity in now or identity in known:
            left_out.append(line)
            continue
        slots.insert(_beside(slots, baseline, index, present), Slot(None, line))
        present.add(identity)
        added.append(line)
    return Adoption(Draft(filled(slots)), added, left_out)


def _beside(
    slots: Sequence[Slot],
    baseline: Sequence[Line],
    index: int,
    present: Collection[tuple[str, ...]],
) -> int:
    """Returns where a line belongs: behind the nearest one before it in the baseline that is here.

    Else before the nearest behind it, and last of all at the end.
    """
    order = [identity_of(slot.line) for slot in slots]
    for line in reversed(baseline[:index]):
        if (identity := identity_of(line)) in present:
            return order.index(identity) + 1
    for line in baseline[index + 1 :]:
        if (identity := identity_of(line)) in present:
            return order.index(identity)
    return len(slots)
