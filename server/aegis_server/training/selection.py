"""Who is asked in a round.

Decided by the plan, by what is stored of earlier rounds and by what the review room says of
participants, and by nothing else: a coordinator that follows one that died asks the same ones.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aegis.v1 import training_pb2

Outcome = training_pb2.ParticipantRound

# What a quarantine answers to.
_LOST = frozenset({Outcome.OUTCOME_MISSING, Outcome.OUTCOME_FAILED, Outcome.OUTCOME_REFUSED})
_QUARANTINE_ROUNDS = 3
# Who came to this has trained.
TRAINED = frozenset(
    {
        Outcome.OUTCOME_AGGREGATED,
        Outcome.OUTCOME_REJECTED,
        Outcome.OUTCOME_HELD,
        Outcome.OUTCOME_LEFT_OUT,
    }
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Whom to ask, whom to ask instead of one that fails, and why the others are not asked.

    Those who are spare are among the others, too.
    """

    asked: tuple[str, ...]
    spare: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)


def choose(
    plan: training_pb2.RunPlan,
    names: Sequence[str],
    rounds: Sequence[training_pb2.Round],
    number: int,
    *,
    spent: Mapping[str, int],
    steps_max: int,
    refused: Iterable[str] = (),
    barred: Iterable[str] = (),
) -> Choice:
    """Chooses for round `number` among `names`, after the stored `rounds`.

    `spent` are the private steps each has been asked for, `steps_max` how many each may be asked
    for in the run, `refused` who has already said no in this round, and `barred` whom the review
    room has in quarantine: they are not asked even when too few others are left.
    """
    refusing, out = frozenset(refused), frozenset(barred)
    taken = taken_part(rounds)
    locked = quarantined(plan, rounds, number)
    others: dict[str, str] = {}
    able: list[str] = []
    for name in names:
        if name in out:
            others[name] = "in quarantine"
        elif name in refusing:
            others[name] = "it has refused this round"
        elif plan.rounds_each and taken[name] >= plan.rounds_each:
            others[name] = f"it has taken part in {taken[name]} rounds, as often as it may"
        elif spent.get(name, 0) + plan.local_steps > steps_max:
            others[name] = "repeated or lost rounds have used up its epsilon"
        else:
            able.append(name)
    able.sort(key=lambda name: (taken[name] if plan.rounds_each else 0, _lot(plan, number, name)))
    free = [name for name in able if name not in locked]
    # Better to ask those who may fail again than to have a round that cannot succeed.
    missing = max(0, plan.min_participants - len(free))
    soonest = sorted((n for n in able if n in locked), key=lambda name: locked[name])
    free += soonest[:missing]
    for name in soonest[missing:]:
        others[name] = f"quarantined until round {locked[name]}"
    most = plan.per_round or len(free)
    asked, spare = free[:most], free[most:]
    others |= dict.fromkeys(spare, "not drawn")
    chosen = frozenset(asked)
    return Choice(tuple(n for n in names if n in chosen), tuple(spare), others)


def taken_part(rounds: Iterable[training_pb2.Round]) -> Counter[str]:
    """Returns in how many of the rounds each participant was asked."""
    return Counter(
        each.participant
        for round_ in rounds
        for each in round_.participants
        if each.outcome != Outcome.OUTCOME_NOT_ASKED
    )


def quarantined(
    plan: training_pb2.RunPlan, rounds: Iterable[training_pb2.Round], number: int
) -> dict[str, int]:
    """Returns who is in quarantine in round `number`, and the last round of it."""
    if not plan.quarantine_after:
        return {}
    length = plan.quarantine_rounds or _QUARANTINE_ROUNDS
    lost: Counter[str] = Counter()
    until: dict[str, int] = {}
    for round_ in rounds:
        for each in round_.participants:
            if each.outcome == Outcome.OUTCOME_NOT_ASKED:
                continue
            lost[each.participant] = lost[each.participant] + 1 if each.outcome in _LOST else 0
            if lost[each.participant] >= plan.quarantine_after:
                until[each.participant] = round_.round + length
                lost[each.participant] = 0
    return {name: last for name, last in until.items() if last >= number}


def spent_in(rounds: Iterable[training_pb2.Round]) -> Counter[str]:
    """Returns the private steps each participant may have taken in the rounds."""
    spent: Counter[str] = Counter()
    for round_ in rounds:
        for each in round_.participants:
            spent[each.participant] += each.steps
    return spent


def _lot(plan: training_pb2.RunPlan, number: int, name: str) -> bytes:
    return hashlib.sha256(f"{plan.seed}/{number}/{name}".encode()).digest()
