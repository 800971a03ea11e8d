"""The verdict as a state machine: whatever is seen, in whatever order, these hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from aegis_executor.verification.judgement import Course, Finding, Look, Outcome, Tally, judge

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
COURSE = Course(NOW + timedelta(seconds=30), NOW + timedelta(seconds=300), successes=2, failures=4)
OUTCOMES = st.sampled_from(Outcome)
BAD = (Outcome.WAITING, Outcome.FAILED)


def look(seconds: float, *outcomes: Outcome) -> Look:
    found = [Finding(f"probe-{n}", outcome, outcome.name) for n, outcome in enumerate(outcomes)]
    return Look(NOW + timedelta(seconds=seconds), found)


def state(*looks: Look, course: Course = COURSE) -> str | None:
    verdict = judge(looks, course)
    return verdict.state if verdict is not None else None


@st.composite
def histories(draw: st.DrawFn) -> list[Look]:
    """Looks at rising times of a fake clock, each of one to three findings."""
    seconds, looks = 0.0, []
    for _ in range(draw(st.integers(1, 40))):
        seconds += draw(st.floats(0.5, 30))
        looks.append(look(seconds, *draw(st.lists(OUTCOMES, min_size=1, max_size=3))))
    return looks


def judged(looks: list[Look]) -> list[Look]:
    """Those that were judged, up to the one that decided."""
    tally, counted = Tally(), []
    for each in looks:
        if tally.verdict is None and each.at >= COURSE.starts_at:
            counted.append(each)
        tally = tally.after(each, COURSE)
    return counted


@given(histories())
def test_verified_only_after_good_looks_in_a_row(looks: list[Look]):
    """Every probe content, so many times in a row, the last of them now."""
    if state(*looks) == "VERIFIED":
        last = judged(looks)[-COURSE.successes :]
        assert [each.outcome for each in last] == [Outcome.GOOD] * COURSE.successes


@given(histories())
def test_failure_limit_wins(looks: list[Look]):
    """After so many harmful looks nothing makes it VERIFIED any more."""
    harmful = [each for each in judged(looks) if each.outcome is Outcome.FAILED]
    assert len(harmful) <= COURSE.failures
    if len(harmful) == COURSE.failures:
        assert state(*looks) == "INEFFECTIVE"


@given(histories())
def test_window_ends_with_a_verdict(looks: list[Look]):
    """Nothing is watched for ever."""
    if looks[-1].at >= COURSE.ends_at:
        assert state(*looks) is not None


@given(histories(), histories())
def test_first_verdict_stands(looks: list[Look], later: list[Look]):
    """What comes after changes nothing."""
    first = judge(looks, COURSE)
    if first is not None:
        assert judge([*looks, *later], COURSE) == first


@given(histories())
def test_nothing_is_judged_before_the_start(looks: list[Look]):
    """Until it has stabilised nobody knows anything."""
    early = [each for each in looks if each.at < COURSE.starts_at]
    assert judge(early, COURSE) is None
    assert judge(looks, COURSE) == judge([e for e in looks if e not in early], COURSE)


@given(histories())
def test_somebody_else_at_it_is_never_our_success_or_failure(looks: list[Look]):
    """Drift ends it at once, undecided."""
    counted = judged(looks)
    if any(each.outcome is Outcome.DRIFTED for each in counted):
        assert (state(*looks), counted[-1].outcome) == ("INCONCLUSIVE", Outcome.DRIFTED)


@given(histories())
def test_unasked_probe_is_never_a_success_nor_a_failure(looks: list[Look]):
    """Where the last word was that nobody could tell, the verdict says so."""
    counted = judged(looks)
    if counted and counted[-1].outcome is Outcome.UNASKED:
        assert state(*looks) in (None, "INCONCLUSIVE")


@given(histories())
def test_ineffective_has_seen_something_bad(looks: list[Look]):
    """It is said of what was seen, not of what nobody looked at."""
    if state(*looks) == "INEFFECTIVE":
        assert judged(looks)[-1].outcome in BAD


@given(st.lists(OUTCOMES, min_size=1, max_size=4))
def test_look_is_worth_its_worst_finding(outcomes: list[Outcome]):
    """One ill probe is enough."""
    assert look(0, *outcomes).outcome is max(outcomes)


def test_look_at_nothing_is_no_success():
    """No probe, no opinion."""
    assert Look(NOW, ()).outcome is Outcome.UNASKED


def test_good_looks_in_a_row_verify():
    """One bad look between them begins the count anew."""
    good, bad = Outcome.GOOD, Outcome.WAITING
    assert state(look(31, good)) is None
    assert state(look(31, good), look(36, bad), look(41, good)) is None
    assert state(look(31, good), look(36, bad), look(41, good), look(46, good)) == "VERIFIED"


def test_never_healthy_is_ineffective():
    """Not healed by the end of the window."""
    waiting = [look(seconds, Outcome.WAITING) for seconds in range(30, 305, 5)]
    assert state(*waiting[:-1]) is None
    assert state(*waiting) == "INEFFECTIVE"


def test_good_for_too_short_a_time_is_inconclusive():
    """The window ended before it could be told."""
    assert state(look(295, Outcome.WAITING), look(300, Outcome.GOOD)) == "INCONCLUSIVE"
