"""Who is asked: by plan and stored rounds alone, within caps, and never too few without need."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.v1 import training_pb2
from aegis_server.training.selection import Choice, choose, quarantined, spent_in, taken_part

Outcome = training_pb2.ParticipantRound
Plan = training_pb2.RunPlan
OUTCOMES = (
    Outcome.OUTCOME_AGGREGATED,
    Outcome.OUTCOME_REJECTED,
    Outcome.OUTCOME_FAILED,
    Outcome.OUTCOME_MISSING,
    Outcome.OUTCOME_REFUSED,
)


def _plan(**fields: object) -> Plan:
    values: dict[str, object] = {"local_steps": 1, "min_participants": 2, "rounds": 50, "seed": 5}
    return Plan(**values | fields)  # type: ignore[arg-type]


def _names(count: int) -> list[str]:
    return [f"site-{number}" for number in range(1, count + 1)]


def _round(number: int, outcomes: dict[str, int]) -> training_pb2.Round:
    return training_pb2.Round(
        round=number,
        participants=[
            Outcome(participant=name, outcome=outcome, steps=1)  # type: ignore[arg-type]
            for name, outcome in outcomes.items()
        ],
    )


def _choose(plan: Plan, names: list[str], rounds: list[training_pb2.Round], number: int) -> Choice:
    return choose(plan, names, rounds, number, spent=spent_in(rounds), steps_max=plan.rounds)


def test_everybody_is_asked_unless_the_plan_says_less() -> None:
    """In the order of participants, without a spare."""
    assert _choose(_plan(), _names(3), [], 1) == Choice(("site-1", "site-2", "site-3"))


def test_draw_depends_on_seed_and_round_only() -> None:
    """Another seed or round, other participants; the same, the same."""
    plan, names = _plan(per_round=5), _names(20)
    drawn = {_choose(plan, names, [], number).asked for number in range(1, 21)}
    assert len(drawn) == 20
    assert _choose(plan, names, [], 3) == _choose(plan, names, [], 3)
    assert _choose(_plan(per_round=5, seed=6), names, [], 3) != _choose(plan, names, [], 3)
    choice = _choose(plan, names, [], 3)
    assert sorted({*choice.asked, *choice.spare}) == sorted(names)
    assert set(choice.others.values()) == {"not drawn"}


def test_draw_is_fair() -> None:
    """Over many rounds everybody is asked about as often."""
    plan, names = _plan(per_round=5), _names(20)
    asked = Counter(name for n in range(400) for name in _choose(plan, names, [], n).asked)
    assert 70 <= min(asked.values()) <= max(asked.values()) <= 130


@pytest.mark.parametrize(
    "outcome", [Outcome.OUTCOME_MISSING, Outcome.OUTCOME_FAILED, Outcome.OUTCOME_REFUSED]
)
def test_participant_that_fails_again_and_again_is_left_out_for_a_while(outcome: int) -> None:
    """Two in a row, then three rounds without it, then another chance."""
    plan = _plan(quarantine_after=2)
    lost = [_round(n, {"site-1": outcome, "site-2": 1, "site-3": 1}) for n in (1, 2)]
    assert quarantined(plan, lost[:1], 2) == {}
    for number in (3, 4, 5):
        choice = _choose(plan, _names(3), lost, number)
        assert choice.asked == ("site-2", "site-3")
        assert choice.others == {"site-1": "quarantined until round 5"}
    assert _choose(plan, _names(3), lost, 6).asked == ("site-1", "site-2", "site-3")


def test_who_is_in_quarantine_by_the_review_is_not_asked_though_too_few_are_left() -> None:
    """A run that cannot do without a site that somebody locked out ends instead."""
    choice = choose(
        _plan(), _names(3), [], 1, spent={}, steps_max=50, refused=["site-1"], barred=_names(2)
    )
    assert choice.asked == ("site-3",)
    assert choice.others == {"site-1": "in quarantine", "site-2": "in quarantine"}


def test_quarantine_counts_rounds_in_a_row_and_not_those_it_was_not_asked_in() -> None:
    """An answer in between ends the row, even one that was rejected."""
    plan = _plan(quarantine_after=2, quarantine_rounds=1)
    missing = Outcome.OUTCOME_MISSING
    between = {
        Outcome.OUTCOME_REJECTED: {},
        Outcome.OUTCOME_HELD: {},
        Outcome.OUTCOME_NOT_ASKED: {"site-1": 4},
    }
    for outcome, expected in between.items():
        rounds = [
            _round(n, {"site-1": each}) for n, each in enumerate((missing, outcome, missing), 1)
        ]
        assert quarantined(plan, rounds, 4) == expected
    assert quarantined(_plan(), [_round(n, {"site-1": missing}) for n in range(9)], 10) == {}


def test_quarantine_never_takes_what_the_round_needs() -> None:
    """Those whose quarantine ends first are asked anyway."""
    plan = _plan(quarantine_after=1, quarantine_rounds=5)
    rounds = [
        _round(1, {"site-1": Outcome.OUTCOME_MISSING, "site-2": 1, "site-3": 1}),
        _round(2, {"site-2": Outcome.OUTCOME_MISSING, "site-3": Outcome.OUTCOME_AGGREGATED}),
    ]
    choice = _choose(plan, _names(3), rounds, 3)
    assert choice.asked == ("site-1", "site-3")
    assert choice.others == {"site-2": "quarantined until round 7"}


def test_who_has_no_steps_left_or_has_refused_is_not_asked() -> None:
    """With the reason."""
    choice = choose(
        _plan(local_steps=2),
        _names(4),
        [],
        1,
        spent={"site-1": 9, "site-2": 8},
        steps_max=10,
        refused=["site-4"],
    )
    assert choice.asked == ("site-2", "site-3")
    assert choice.others == {
        "site-1": "repeated or lost rounds have used up its epsilon",
        "site-4": "it has refused this round",
    }


@given(
    participants=st.integers(2, 9),
    data=st.data(),
    seed=st.integers(-(2**63), 2**63 - 1),
    quarantine=st.integers(0, 3),
    capped=st.booleans(),
)
def test_run_that_is_followed_from_any_round_asks_the_same(
    participants: int, data: st.DataObject, seed: int, quarantine: int, capped: bool
) -> None:
    """Whatever became of everybody: choices need nothing but what is stored, and keep the caps."""
    rounds_planned = 8
    per_round = data.draw(st.integers(2, participants))
    each = -(-rounds_planned * per_round // participants) if capped else 0
    plan = _plan(
        participants=participants,
        per_round=per_round,
        quarantine_after=quarantine,
        rounds_each=each,
        rounds=rounds_planned,
        seed=seed,
    )
    names, stored, choices = _names(participants), [], []
    for number in range(1, rounds_planned + 1):
        choice = _choose(plan, names, stored, number)
        assert len(choice.asked) <= per_round
        # Quarantine may leave some with all their rounds when those of the others are used up.
        assert each or len(choice.asked) >= min(plan.min_participants, per_round)
        assert {*choice.asked, *choice.others} == set(names)
        choices.append(choice)
        outcomes: dict[str, int] = dict.fromkeys(choice.others, Outcome.OUTCOME_NOT_ASKED)
        outcomes |= {name: data.draw(st.sampled_from(OUTCOMES)) for name in choice.asked}
        stored.append(_round(number, outcomes))
        if each:
            assert max(taken_part(stored).values()) <= each
    for number in range(1, rounds_planned + 1):
        copied = [training_pb2.Round.FromString(r.SerializeToString()) for r in stored]
        assert choices[number - 1] == _choose(plan, names, copied[: number - 1], number)
