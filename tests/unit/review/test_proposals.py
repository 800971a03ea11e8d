"""Who is proposed for quarantine: a rule on plain values."""

from __future__ import annotations

from aegis_server.review.case import Verdict
from aegis_server.review.standing.proposals import Known, proposal
from aegis_server.review.standing.reputation import Decider, Evidence

NOBODY: frozenset[str] = frozenset()


def known(*evidence: Evidence, alike: frozenset[str] = NOBODY) -> list[Known]:
    return [Known(f"upd-{at}", each, alike) for at, each in enumerate(evidence, start=1)]


def rejected(score: float = 1.5) -> Evidence:
    return Evidence(Verdict.REJECTED, score)


def accepted(score: float = 0.2) -> Evidence:
    return Evidence(Verdict.ACCEPTED, score)


def test_three_rejections_are_proposed_with_their_updates():
    """The person who decides sees what it rests on."""
    found = proposal(known(*[rejected()] * 3), NOBODY)
    assert found is not None
    assert (found.cause, found.update_ids) == ("reputation", ("upd-1", "upd-2", "upd-3"))
    assert found.reason.startswith("3 of its 3 judged updates were rejected: its reputation is 0.")


def test_two_rejections_are_not_enough():
    """However clear they are."""
    assert proposal(known(rejected(9), rejected(9)), NOBODY) is None


def test_held_updates_do_not_make_up_the_number():
    """Nobody has looked at them yet."""
    held = Evidence(Verdict.HELD, 3.0)
    assert proposal(known(rejected(9), held, held, rejected(9)), NOBODY) is None


def test_site_that_is_mostly_accepted_is_not_proposed():
    """An honest site is rejected now and then."""
    mostly = known(accepted(), rejected(), accepted(), rejected(), accepted())
    assert proposal(mostly, NOBODY) is None


def test_what_persons_accepted_is_not_held_against_it():
    """An overridden verdict counts as the person decided."""
    cleared = Evidence(Verdict.ACCEPTED, 2.0, Decider.PERSON)
    assert proposal(known(*[cleared] * 5), NOBODY) is None


def test_company_is_proposed_though_all_was_accepted():
    """Copies that are each harmless weigh too much together."""
    seen = known(*[accepted()] * 3, alike=frozenset({"b"}))
    found = proposal(seen, frozenset({"b", "c"}))
    assert found is not None
    assert (found.cause, found.update_ids) == ("collusion", ("upd-1", "upd-2", "upd-3"))
    assert found.reason == "in 3 rounds its updates were suspiciously like those of b, c"


def test_company_before_the_last_decision_does_not_count():
    """Two rounds since are too few, whatever was before."""
    assert proposal(known(*[accepted()] * 2, alike=frozenset({"b"})), frozenset({"b"})) is None


def test_large_company_is_named_in_part():
    """A sentence stays one."""
    names = frozenset(f"s{at}" for at in range(9))
    found = proposal(known(*[accepted()] * 3, alike=names), names)
    assert found is not None
    assert found.reason.endswith("like those of s0, s1, s2, s3, s4 and 4 more")
