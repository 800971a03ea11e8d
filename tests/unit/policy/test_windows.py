"""Windows of time: what they contain, and exactly when that changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_policy import Engine
from aegis_policy.windows import Period, Weekly

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour of daylight saving
    "Africa/Casablanca",  # clocks back and forth around Ramadan
    "Asia/Kathmandu",
    "America/Sao_Paulo",
    "Pacific/Apia",
)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "inside", "change"),
    [
        ("2026-03-02T07:59:59", False, "2026-03-02T08:00:00"),  # Monday in Berlin, winter
        ("2026-03-02T08:00:00", True, "2026-03-02T16:30:00"),
        ("2026-03-02T16:30:00", False, "2026-03-03T08:00:00"),
        ("2026-03-06T16:30:00", False, "2026-03-09T08:00:00"),  # over the weekend
        ("2026-03-27T16:30:00", False, "2026-03-30T07:00:00"),  # the clocks go forward meanwhile
        ("2026-10-23T15:30:00", False, "2026-10-26T08:00:00"),  # and back
    ],
)
def test_office_hours_end_when_the_clock_on_the_wall_says_so(
    now: str, inside: bool, change: str
) -> None:
    """Boundaries are right across weekends and changes of daylight saving."""
    hours = Weekly.parse("Mon-Fri", "09:00", "17:30", "Europe/Berlin")
    assert hours.contains(utc(now)) is inside
    assert hours.next_change(utc(now)) == utc(change)


def test_night_shift_ends_on_the_next_morning() -> None:
    """A window over midnight belongs to the day it began on."""
    night = Weekly.parse("Fri", "22:00", "06:00", "UTC")
    assert night.contains(utc("2026-03-07T05:59:00"))
    assert not night.contains(utc("2026-03-06T05:59:00"))
    assert night.next_change(utc("2026-03-06T23:00:00")) == utc("2026-03-07T06:00:00")


def test_hour_that_is_shown_twice_counts_twice() -> None:
    """02:30 comes twice on the last Sunday of October; in between the window is closed."""
    window = Weekly.parse("Sun", "02:30", "03:00", "Europe/Berlin")
    at, shown = utc("2026-10-25T00:00:00"), []
    while len(shown) < 4:
        at = window.next_change(at)
        shown += [f"{at:%H:%M}"]
    assert shown == ["00:30", "01:00", "01:30", "02:00"]


def test_hour_that_is_skipped_does_not_count() -> None:
    """02:00 to 03:00 does not happen on the last Sunday of March, so nothing changes that day."""
    window = Weekly.parse("Sun", "02:00", "03:00", "Europe/Berlin")
    assert window.next_change(utc("2026-03-28T12:00:00")) == utc("2026-04-05T00:00:00")


windows = st.builds(
    lambda days, begin, length, zone: Weekly.parse(
        ",".join(sorted(days)),
        f"{begin // 60:02d}:{begin % 60:02d}",
        f"{(begin + length) % 1440 // 60:02d}:{(begin + length) % 60:02d}",
        zone,
    ),
    st.sets(st.sampled_from(DAYS), min_size=1, max_size=6),
    st.integers(0, 1439),
    st.integers(1, 1439),
    st.sampled_from(ZONES),
)


@settings(max_examples=150, deadline=None)
@given(windows, st.integers(0, 365 * 24 * 60), st.integers(0, 59))
def test_answer_holds_until_its_boundary_and_not_longer(
    window: Weekly, minutes: int, seconds: int
) -> None:
    """Walking minute by minute finds no earlier change, and one at the boundary."""
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes, seconds=seconds)
    inside, change = window.contains(now), window.next_change(now)
    assert change > now
    assert window.contains(change) is not inside
    step = now
    while step < change:
        assert window.contains(step) is inside
        step += timedelta(minutes=1)
    assert window.contains(change - timedelta(microseconds=1)) is inside


def test_period_contains_its_beginning_and_not_its_end() -> None:
    """Periods are half open, and after their end nothing changes any more."""
    period = Period.parse("2026-01-01T00:00:00Z", "2026-02-01T00:00:00+01:00")
    begin, end = utc("2026-01-01T00:00:00"), utc("2026-01-31T23:00:00")
    assert period.contains(begin)
    assert not period.contains(end)
    assert period.next_change(begin - timedelta(days=1)) == begin
    assert period.next_change(begin) == end
    assert period.next_change(end) is None


RULES = """
p, user:ann, *, /a, read, "ctx.on and between('2026-03-02T13:00Z', '2026-03-02T14:00Z')", deny, noon
p, user:ann, *, /a, read, "weekly('Mon-Fri', '09:00', '17:30', 'UTC')", allow, office
p, user:ann, *, /b, read, "weekly('Mon-Fri', '09:00', '17:30', 'UTC')", allow, office-b
p, user:ann, *, /c, read, , allow, always
"""


@pytest.mark.parametrize(
    ("resource", "on", "now", "allowed", "until"),
    [
        ("/a", True, "2026-03-02T12:00:00", True, "2026-03-02T13:00:00"),
        ("/a", True, "2026-03-02T13:30:00", False, "2026-03-02T14:00:00"),
        ("/a", True, "2026-03-02T14:00:00", True, "2026-03-02T17:30:00"),
        ("/a", False, "2026-03-02T12:00:00", True, "2026-03-02T17:30:00"),
        ("/b", True, "2026-03-02T18:00:00", False, "2026-03-03T09:00:00"),
        ("/c", True, "2026-03-02T12:00:00", True, None),
        ("/d", True, "2026-03-02T12:00:00", False, None),
    ],
)
def test_decision_is_valid_until_the_first_clock_it_read_changes(
    resource: str, on: bool, now: str, allowed: bool, until: str | None
) -> None:
    """Clocks of rules that were not looked at do not shorten an answer; those looked at do."""
    decision = Engine.from_csv(RULES).decide(
        subject="user:ann",
        domain="aegis",
        resource=resource,
        action="read",
        attributes={"on": on},
        now=utc(now),
    )
    assert decision.allowed is allowed
    assert decision.valid_until == (utc(until) if until else None)
