"""Maintenance windows and freezes, over midnight and over the change of clocks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.errors import FailedPrecondition
from aegis_executor.catalogue.base import Gate
from aegis_executor.guards.gates import error_of
from aegis_executor.guards.windows import DAYS, Window, window_gates

# A Friday; Berlin is two hours ahead.
FRIDAY = datetime(2026, 5, 1, 12, tzinfo=UTC)


def window(begins: str, ends: str, *days: str, **told: Any) -> Window:
    table = {"name": "w", "from": begins, "to": ends, "days": list(days or DAYS), **told}
    return Window.of_table(table)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def gate(now: datetime, *windows: Window, namespace: str = "demo") -> Gate:
    return window_gates(namespace, windows, (), now)[1]


def frozen(now: datetime, *freezes: Window, namespace: str = "demo") -> Gate:
    return window_gates(namespace, (), freezes, now)[0]


@pytest.mark.refuses("WINDOW_CLOSED", step=12)
def test_outside_of_its_windows_nothing_is_done_in_a_namespace():
    """And the refusal says when one opens."""
    closed = gate(FRIDAY, window("22:00", "23:00", zone="Europe/Berlin"))
    error = error_of(closed, FRIDAY)
    assert isinstance(error, FailedPrecondition)
    assert (error.reason, error.metadata) == ("WINDOW_CLOSED", {"window": "w"})
    assert closed.retry_at == at("2026-05-01 20:00")
    assert gate(at("2026-05-01 20:00"), window("22:00", "23:00", zone="Europe/Berlin")).passed


def test_without_a_window_there_is_nothing_to_wait_for():
    """A window of another namespace is none of ours."""
    assert gate(FRIDAY).passed
    assert gate(FRIDAY, window("01:00", "02:00", namespaces=["shop"])).passed
    assert not gate(FRIDAY, window("01:00", "02:00"), namespace="shop").passed


def test_window_over_midnight_belongs_to_the_day_it_begins_on():
    """Friday 22:00 to Saturday 06:00, and not Friday's small hours."""
    night = window("22:00", "06:00", "fri")
    assert gate(at("2026-05-01 23:30"), night).passed
    assert gate(at("2026-05-02 05:59"), night).passed
    assert not gate(at("2026-05-02 06:00"), night).passed
    assert not gate(at("2026-05-01 05:00"), night).passed


def test_same_begin_and_end_is_a_whole_day():
    """Saturday, all of it."""
    saturday = window("00:00", "00:00", "sat")
    assert gate(at("2026-05-02 00:00"), saturday).passed
    assert gate(at("2026-05-02 23:59"), saturday).passed
    assert not gate(at("2026-05-03 00:00"), saturday).passed


def test_hour_that_comes_twice_opens_once():
    """Berlin, 25 October 2026: 02:00 to 03:00 comes twice; a window that is over stays over."""
    early = window("02:10", "02:40", zone="Europe/Berlin")
    assert gate(at("2026-10-25 00:20"), early).passed
    assert not gate(at("2026-10-25 00:50"), early).passed
    assert not gate(at("2026-10-25 01:20"), early).passed


def test_freeze_holds_through_the_hour_that_comes_twice():
    """From its first beginning to its last end."""
    early = window("02:10", "02:40", zone="Europe/Berlin")
    for minute in ("00:20", "00:50", "01:20"):
        assert not frozen(at(f"2026-10-25 {minute}"), early).passed
    assert frozen(at("2026-10-25 01:40"), early).passed


def test_hour_that_never_comes_still_has_its_window():
    """Berlin, 29 March 2026: from 02:00 it is 03:00; half an hour stays half an hour."""
    lost = window("02:10", "02:40", zone="Europe/Berlin")
    assert gate(at("2026-03-29 01:20"), lost).passed
    assert not gate(at("2026-03-29 01:50"), lost).passed


@pytest.mark.refuses("WINDOW_CLOSED", step=12)
def test_freeze_refuses_and_says_when_it_thaws():
    """Two that follow each other are one."""
    first = window("10:00", "13:00", name="release")
    second = window("13:00", "15:00")
    found = frozen(FRIDAY, first, second)
    assert (found.passed, found.reason, dict(found.metadata)) == (
        False,
        "WINDOW_CLOSED",
        {"window": "release"},
    )
    assert found.retry_at == at("2026-05-01 13:00")
    assert frozen(FRIDAY, window("00:00", "00:00")).retry_at is None


def test_freeze_of_any_namespace_holds_for_nodes():
    """They carry its pods."""
    assert not frozen(FRIDAY, window("10:00", "13:00", namespaces=["shop"]), namespace="").passed
    assert frozen(FRIDAY, window("10:00", "13:00", namespaces=["shop"])).passed


@given(
    st.integers(0, 23),
    st.integers(0, 23),
    st.sets(st.sampled_from(DAYS), min_size=1),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
)
def test_closed_window_is_open_when_it_says(
    begins: int, ends: int, days: set[str], zone: str, naive: datetime
):
    """Whatever the zone does in between."""
    now = naive.replace(tzinfo=UTC)
    some = window(f"{begins:02}:30", f"{ends:02}:00", *days, zone=zone)
    found = gate(now, some)
    if not found.passed:
        assert found.retry_at is not None
        assert now < found.retry_at
        assert gate(found.retry_at, some).passed
