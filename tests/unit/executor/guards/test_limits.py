"""Budgets, concurrency, cool-down and attempts: each refusal with its numbers and its time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.guarding import NOW, ago, asked, deed, gates, history, named, refusals

from aegis.errors import Aborted, FailedPrecondition, ResourceExhausted
from aegis_executor.catalogue.base import Gate, Kind
from aegis_executor.guards.gates import error_of
from aegis_executor.guards.numbers import Numbers

LONG_AGO = {"hours": 2}


def test_nothing_done_and_all_calm_passes_every_gate():
    """The usual case."""
    assert refusals(asked(), history()) == []


def test_target_under_way_is_busy():
    """One at a time at one object."""
    gate = named(gates(asked(), history(deed(ago(**LONG_AGO), "APPLIED"))), "concurrent.target")
    error = error_of(gate, NOW)
    assert isinstance(error, Aborted)
    assert (error.reason, error.metadata) == (
        "TARGET_BUSY",
        {"scope": "target", "used": "1", "limit": "1"},
    )


def test_action_is_under_way_until_its_verdict():
    """APPLIED is not the end: whether it helps is still being watched."""
    for state in ("INTENT", "APPLIED"):
        assert "concurrent.target" in refusals(asked(), history(deed(ago(**LONG_AGO), state)))
    for state in ("FAILED", "VERIFIED"):
        assert refusals(asked(), history(deed(ago(**LONG_AGO), state))) == []


def test_pod_counts_as_its_deployment():
    """A replaced pod has another name and the same trouble."""
    pods = {"kind": "pods", "verb": "restart_pod"}
    past = [deed(ago(minutes=50 - 12 * n), name=f"web-5d8c7b9f4-x2x9{n}", **pods) for n in range(3)]
    ask = asked("web-5d8c7b9f4-abcde", kind=Kind.POD, verb="restart_pod")
    assert "hour.target" in refusals(ask, history(*past))
    assert "concurrent.target" in refusals(ask, history(deed(ago(minutes=1), "APPLIED")))


def test_pod_without_a_deployment_counts_as_itself():
    """A stateful set's pod keeps its name."""
    past = history(deed(ago(minutes=1), "APPLIED", name="db-1", kind="pods"))
    assert "concurrent.target" not in refusals(asked("db-0", kind=Kind.POD), past)


def test_namespace_and_everything_have_so_many_at_once():
    """Two in a namespace, five altogether."""
    two = [deed(ago(**LONG_AGO), "APPLIED", f"app{n}") for n in range(2)]
    assert refusals(asked(), history(*two)) == ["concurrent.namespace demo"]
    five = [deed(ago(**LONG_AGO), "APPLIED", namespace=f"n{n}") for n in range(5)]
    assert refusals(asked(), history(*five)) == ["concurrent.global"]


@pytest.mark.refuses("BUDGET_EXHAUSTED", step=13)
def test_fourth_of_a_target_within_the_hour_is_refused_until_the_first_is_an_hour_old():
    """RetryInfo says when, and QuotaFailure whose budget it is."""
    past = [deed(ago(minutes=minutes), "VERIFIED") for minutes in (50, 35, 20)]
    gate = named(gates(asked(), history(*past)), "hour.target")
    error = error_of(gate, NOW)
    assert isinstance(error, ResourceExhausted)
    assert (error.reason, error.retry_seconds) == ("BUDGET_EXHAUSTED", 600)
    assert error.metadata == {"scope": "target", "used": "3", "limit": "3"}
    details = [detail.type_url.rpartition(".")[2] for detail in error.to_status().details]
    assert details == ["ErrorInfo", "RetryInfo", "QuotaFailure"]


@pytest.mark.parametrize(
    ("count", "apart", "gate"), [(10, "demo", "namespace demo"), (30, "", "global")]
)
def test_namespace_and_everything_have_an_hourly_budget(count: int, apart: str, gate: str):
    """Ten in a namespace, thirty altogether, whatever the targets."""
    past = [deed(ago(minutes=30), name=f"app{n}", namespace=apart or f"n{n}") for n in range(count)]
    assert f"hour.{gate}" in refusals(asked(), history(*past))
    assert f"hour.{gate}" not in refusals(asked(), history(*past[1:]))


def test_same_to_the_same_cools_down():
    """Another action, or another target, does not wait for it."""
    past = history(deed(ago(minutes=9)))
    gate = named(gates(asked(), past), "cool_down")
    error = error_of(gate, NOW)
    assert isinstance(error, ResourceExhausted)
    assert (error.reason, error.retry_seconds) == ("COOLING_DOWN", 60)
    assert "cool_down" not in refusals(asked(verb="rollback_deployment"), past)
    assert "cool_down" not in refusals(asked("api"), past)
    assert "cool_down" not in refusals(asked(), history(deed(ago(minutes=10))))


def test_three_attempts_for_an_incident_are_enough():
    """Whatever they were done to: one incident, one count."""
    past = [deed(ago(hours=h), "INEFFECTIVE", f"app{h}", incident_id="inc-1") for h in (2, 3, 4)]
    numbers = Numbers.of_table({"breakers": {"outcomes_min": 100}})
    gate = named(gates(asked(incident_id="inc-1"), history(*past), numbers), "attempts")
    error = error_of(gate, NOW)
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "ATTEMPTS_EXHAUSTED"
    assert error.metadata == {"incident": "inc-1", "used": "3", "limit": "3"}
    assert refusals(asked(incident_id="inc-2"), history(*past), numbers) == []


def test_relapse_within_the_hour_is_the_same_incident():
    """It helped, and came back: that was an attempt; after an hour of quiet it is news."""
    times = (150, 100, 50)
    past = [deed(ago(minutes=minutes), incident_id=f"i{minutes}") for minutes in times]
    assert refusals(asked(incident_id="new"), history(*past)) == ["attempts"]
    two = history(*past[1:], now=NOW + timedelta(minutes=12))
    assert named(gates(asked(incident_id="new"), two), "attempts").message.startswith("0 attempts")


def test_incident_that_took_all_its_attempts_is_not_over_by_waiting():
    """A person has to look; or it is forgotten after a day."""
    past = [deed(ago(minutes=minutes)) for minutes in (150, 100, 50)]
    assert refusals(asked(), history(*past, now=NOW + timedelta(hours=5))) == ["attempts"]


def test_what_was_held_back_just_before_the_change_is_no_attempt():
    """Nothing was sent: it costs budget, but neither cools down nor opens a breaker."""
    past = [deed(ago(minutes=m), "FAILED", reason="PLAN_DRIFT", incident_id="i") for m in (3, 2, 1)]
    assert refusals(asked(incident_id="i"), history(*past)) == ["hour.target"]


def test_broken_glass_passes_everything_but_the_target_lock():
    """Budgets, cool-down, attempts and breakers let it through, and still say their numbers."""
    past = [deed(ago(minutes=n), "INEFFECTIVE", incident_id="i") for n in range(1, 31)]
    ask = asked(incident_id="i", break_glass=True)
    assert refusals(ask, history(*past, storm=None)) == []
    assert "glass broken" in named(gates(ask, history(*past)), "hour.target").message
    busy = history(deed(ago(minutes=1), "APPLIED"))
    assert refusals(ask, busy) == ["concurrent.target"]


def test_most_restrictive_wins():
    """A namespace narrows what holds for all, and cannot widen it."""
    narrow = {"namespaces": {"demo": {"hourly": 1, "concurrent": 1, "attempts": 1}}}
    past = history(deed(ago(minutes=30)))
    found = refusals(asked("api"), past, Numbers.of_table(narrow))
    assert found == ["hour.namespace demo"]
    wide = {"namespaces": {"demo": {"hourly": 500, "cool_down_seconds": 1}}}
    ten = [deed(ago(minutes=30), name=f"a{n}") for n in range(10)]
    assert "hour.namespace demo" in refusals(asked(), history(*ten), Numbers.of_table(wide))
    assert "cool_down" in refusals(asked(), history(deed(ago(minutes=9))), Numbers.of_table(wide))


@pytest.mark.parametrize("lacking", ["request_id", "verb"])
def test_guard_that_does_not_know_what_it_is_asked_about_is_not_asked(lacking: str):
    """An empty name would match nothing, or everything."""
    with pytest.raises(ValueError, match="needs to know"):
        asked(**{lacking: ""})
    with pytest.raises(ValueError, match="needs to know"):
        asked("")


def test_every_reason_has_its_error():
    """No gate can refuse without knowing how."""
    for ask in (asked(), asked(incident_id="i")):
        past = [deed(ago(minutes=n), "INEFFECTIVE", incident_id="i") for n in range(1, 31)]
        for gate in gates(ask, history(*past, storm=None, local_pause="x", clock_trusted=False)):
            if not gate.passed:
                assert isinstance(gate, Gate)
                assert error_of(gate, NOW).reason == gate.reason
