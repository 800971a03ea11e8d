"""Breakers follow from outcomes: they open, say until when, and let one approved action try."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.guarding import NOW, ago, asked, deed, gates, history, named, refusals

from aegis.errors import FailedPrecondition
from aegis_executor.guards.breakers import open_breakers
from aegis_executor.guards.gates import error_of
from aegis_executor.guards.numbers import Numbers

TARGET = "breaker.target demo/deployments/web"
BAD = ("INEFFECTIVE", "INCONCLUSIVE", "COMPENSATED", "ESCALATED", "FAILED", "UNKNOWN")
RESOLVED = {"resolved": True}


@pytest.mark.parametrize("state", BAD)
@pytest.mark.refuses("BREAKER_OPEN", step=12)
def test_two_in_a_row_that_did_not_help_open_the_target(state: str):
    """Every end but VERIFIED is one that did not help."""
    past = [deed(ago(minutes=m), state, **RESOLVED) for m in (20, 5)]
    gate = named(gates(asked(), history(*past)), TARGET)
    error = error_of(gate, NOW)
    assert isinstance(error, FailedPrecondition)
    assert (error.reason, error.metadata) == (
        "BREAKER_OPEN",
        {"breaker": "target demo/deployments/web"},
    )
    assert gate.retry_at == ago(minutes=4) + timedelta(minutes=15)
    assert TARGET not in refusals(asked(), history(past[0]))


def test_success_in_between_closes():
    """Consecutive means consecutive."""
    past = [deed(ago(minutes=m), s) for m, s in ((40, "FAILED"), (30, "VERIFIED"), (20, "FAILED"))]
    assert TARGET not in refusals(asked(), history(*past))


def test_half_open_admits_one_that_was_approved():
    """After the open time: not by itself, and not two."""
    past = [deed(ago(minutes=m), "INEFFECTIVE") for m in (50, 40)]
    assert TARGET in refusals(asked(), history(*past))
    assert TARGET not in refusals(asked(approved=True), history(*past))
    trying = deed(ago(minutes=1), "APPLIED")
    gate = named(gates(asked(approved=True), history(*past, trying)), TARGET)
    assert not gate.passed
    assert "trying already" in gate.message


def test_approval_does_not_open_what_is_open():
    """The open time is there so that somebody looks first."""
    past = [deed(ago(minutes=m), "INEFFECTIVE") for m in (20, 5)]
    assert TARGET in refusals(asked(approved=True), history(*past))


def test_try_that_helped_closes_and_one_that_did_not_opens_again():
    """Its outcome decides, not that it was made."""
    past = [deed(ago(minutes=m), "INEFFECTIVE") for m in (70, 60)]
    helped = history(*past, deed(ago(minutes=30)))
    assert TARGET not in refusals(asked(), helped)
    again = history(*past, deed(ago(minutes=3), "INCONCLUSIVE"))
    gate = named(gates(asked(approved=True), again), TARGET)
    assert gate.retry_at == ago(minutes=2) + timedelta(minutes=15)


def test_success_that_was_begun_before_closes_nothing():
    """It tells nothing about the time after."""
    past = [deed(ago(minutes=m), "INEFFECTIVE") for m in (30, 20)]
    slow = deed(ago(minutes=25), ended_at=ago(minutes=1))
    assert TARGET in refusals(asked(), history(*past, slow))


def test_unknown_opens_until_somebody_resolves_it():
    """Time does not tell what became of it; a person does."""
    unknown = deed(ago(days=30), "UNKNOWN", request_id="r-1")
    gate = named(gates(asked(approved=True), history(unknown)), TARGET)
    assert not gate.passed
    assert gate.retry_at is None
    assert "r-1" in gate.message
    resolved = deed(ago(days=30), "UNKNOWN", **RESOLVED)
    assert TARGET not in refusals(asked(), history(resolved))


@pytest.mark.parametrize(
    ("scope", "apart"),
    [
        ("global", {"namespace": "shop", "verb": "restart_pod"}),
        ("action scale_deployment", {"namespace": "shop"}),
        ("namespace demo", {"verb": "restart_pod"}),
    ],
)
def test_a_fifth_that_did_not_help_opens_a_shared_breaker(scope: str, apart: dict[str, str]):
    """20 % of at least five within an hour."""
    past = [deed(ago(minutes=10 + n), name=f"app{n}", **apart) for n in range(4)]
    bad = deed(ago(minutes=5), "INEFFECTIVE", "app9", **apart)
    assert f"breaker.{scope}" in refusals(asked(), history(*past, bad))
    assert f"breaker.{scope}" not in refusals(asked(), history(*past[1:], bad))
    many = [deed(ago(minutes=10 + n), name=f"b{n}", **apart) for n in range(2)]
    assert f"breaker.{scope}" not in refusals(asked(), history(*past, *many, bad))


def test_outcomes_out_of_the_window_do_not_count():
    """An hour, not for ever."""
    old = [deed(ago(minutes=100 + n), name=f"app{n}") for n in range(4)]
    bad = deed(ago(minutes=5), "INEFFECTIVE", "app9")
    assert "breaker.global" not in refusals(asked(), history(*old, bad))


def test_open_breakers_are_shown_with_cause_and_probe_time():
    """Nothing latches silently."""
    past = [deed(ago(minutes=m), "INEFFECTIVE", f"app{m % 2}") for m in (9, 8, 7, 6, 5)]
    found = open_breakers(history(*past), Numbers())
    assert [b.name for b in found] == [
        "global",
        "action scale_deployment",
        "namespace demo",
        "target demo/deployments/app0",
        "target demo/deployments/app1",
    ]
    assert all(b.cause and b.since and b.probe_at and b.state == "OPEN" for b in found)
