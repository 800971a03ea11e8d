"""Reputation as arithmetic: bounded, monotone in the evidence, forgetting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_server.review.case import Verdict
from aegis_server.review.standing.reputation import (
    NEW,
    Decider,
    Evidence,
    course,
    reputation,
)

ACCEPTED, REJECTED, HELD = Verdict.ACCEPTED, Verdict.REJECTED, Verdict.HELD
# From the worst to the best that may become of an update, whatever it scored.
RANKS = [
    (REJECTED, Decider.PERSON),
    (REJECTED, Decider.EXAMINERS),
    (HELD, Decider.EXAMINERS),
    (ACCEPTED, Decider.EXAMINERS),
    (ACCEPTED, Decider.PERSON),
]

scores = st.floats(0, 1e9)
evidence = st.builds(
    Evidence, st.sampled_from([ACCEPTED, REJECTED, HELD]), scores, st.sampled_from(list(Decider))
)
histories = st.lists(evidence, max_size=40)


@given(histories)
def test_reputation_is_always_between_nothing_and_all(history: list[Evidence]):
    """However long a history is, nobody is condemned or sanctified for ever."""
    assert 0 < reputation(history) < 1


@given(histories, histories, scores, scores, st.data())
def test_lower_score_never_costs_reputation(
    before: list[Evidence], after: list[Evidence], one: float, other: float, data: st.DataObject
):
    """Nobody gains by looking more like an attacker, whatever else it did."""
    verdict, decider = data.draw(st.sampled_from(RANKS))
    low, high = sorted((one, other))
    milder = [*before, Evidence(verdict, low, decider), *after]
    assert reputation(milder) >= reputation([*before, Evidence(verdict, high, decider), *after])


@given(histories, histories, scores, st.data())
def test_worse_verdict_never_earns_reputation(
    before: list[Evidence], after: list[Evidence], score: float, data: st.DataObject
):
    """Rejected is worse than held, held than accepted; a person's word weighs most."""
    worse, better = sorted(data.draw(st.tuples(*[st.integers(0, len(RANKS) - 1)] * 2)))
    down, up = (
        Evidence(verdict, score, decider) for verdict, decider in (RANKS[worse], RANKS[better])
    )
    assert reputation([*before, down, *after]) <= reputation([*before, up, *after])


def test_who_is_new_is_in_the_middle():
    """Nothing is known, so nothing speaks for or against."""
    assert reputation([]) == NEW == 0.5


@pytest.mark.parametrize("decider", [Decider.EXAMINERS, Decider.DEADLINE])
def test_what_nobody_looked_at_says_nothing(decider: Decider):
    """A deadline that rejects is no evidence: it would let an examiner's failure convict."""
    verdict = HELD if decider is Decider.EXAMINERS else REJECTED
    assert reputation([Evidence(verdict, 3.0, decider)]) == NEW


def test_three_rejections_are_enough_to_be_below_the_bound():
    """An attacker that every round convicts is proposed after three of them, not after two."""
    values = list(course([Evidence(REJECTED, 1.0)] * 3))
    assert values[1] > 0.25 > values[2]


def test_person_makes_good_what_examiners_did():
    """An overridden verdict counts as the person decided."""
    rejected, overridden = Evidence(REJECTED, 1.5), Evidence(ACCEPTED, 1.5, Decider.PERSON)
    assert reputation([rejected]) < NEW < reputation([overridden])


def test_old_evidence_is_forgotten():
    """A site that was ill once and has been well for long is trusted again."""
    once_ill = [Evidence(REJECTED, 2.0)] * 5 + [Evidence(ACCEPTED, 0.2)] * 40
    assert reputation(once_ill) == pytest.approx(
        reputation([Evidence(ACCEPTED, 0.2)] * 40), abs=0.02
    )
