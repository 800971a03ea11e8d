"""What burnt others, by name, played against these guards. The issues are in execution.md."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from tests.guarding import NOW, ago, asked, deed, history, refusals

from aegis_executor.catalogue.base import Kind
from aegis_executor.guards.breakers import open_breakers
from aegis_executor.guards.history import Deed
from aegis_executor.guards.numbers import Numbers, NumbersError
from aegis_executor.guards.storm import Health, Sight, Storm

LAVISH = Numbers.of_table(
    {
        "cool_down_seconds": 0,
        "attempts": 100,
        "hourly": {"target": 100, "namespace": 100, "global": 100},
    }
)


def carried_out(state: str, numbers: Numbers, *, tries: int = 39, **told: str) -> list[Deed]:
    """Somebody asks again and again, a minute after each end; returns what was let through."""
    done: list[Deed] = []
    now = NOW
    for _ in range(tries):
        if not refusals(asked(**told), history(*done, now=now), numbers):
            done.append(deed(now, state, **told))
        now += timedelta(minutes=2)
    return done


def test_kubernaut_616_ineffective_chain_of_39_runs_stops_at_the_second():
    """ "Completed" is no success: five memory doublings, 39 runs, no escalation."""
    assert len(carried_out("INEFFECTIVE", LAVISH)) == 2


def test_kubernaut_1090_inconclusive_outcomes_escalate_too():
    """39 runs whose effect nobody could tell."""
    assert len(carried_out("INCONCLUSIVE", LAVISH)) == 2


def test_kubernaut_364_recurrence_after_success_is_an_attempt():
    """Each run "helped", the alert came back each time: three, then a person."""
    numbers = Numbers.of_table(
        {"cool_down_seconds": 0, "hourly": {"target": 100, "namespace": 100, "global": 100}}
    )
    assert len(carried_out("VERIFIED", numbers, incident_id="i-1")) == 3


@pytest.mark.parametrize("key", ["ineffectiveChainThreshold", "recurrenceCountThreshold"])
def test_kubernaut_616_key_without_code_fails_the_start(key: str):
    """Configuration that nothing reads is worse than none."""
    with pytest.raises(NumbersError, match=key):
        Numbers.of_table({key: 3})


def test_kubernaut_715_missing_guard_input_trips():
    """An empty hash meant "never triggers"; here what is not known refuses."""
    assert refusals(asked(), history(storm=None)) == ["storm"]
    with pytest.raises(ValueError, match="needs to know"):
        asked(verb="")


def test_diskerase_empty_selector_is_an_error_not_everything():
    """An empty name never matches what was done to something else."""
    with pytest.raises(ValueError, match="needs to know"):
        asked("")
    other = deed(ago(minutes=1), "APPLIED", name="", namespace="")
    assert "concurrent.target" not in refusals(asked(), history(other))


def test_karpenter_3192_breaker_does_not_latch():
    """A wave of bad outcomes freezes everything; a try is due in 15 minutes, and is said to be."""
    past = [deed(ago(minutes=m), "INEFFECTIVE", f"a{m}", namespace=f"n{m}") for m in range(1, 8)]
    (found,) = [each for each in open_breakers(history(*past), Numbers()) if each.name == "global"]
    assert found.probe_at == NOW + timedelta(minutes=15)
    later = history(*past, now=NOW + timedelta(minutes=16))
    assert refusals(asked(), later) == ["breaker.action scale_deployment", "breaker.global"]
    assert refusals(asked(approved=True), later) == []


def test_karpenter_3192_recovery_does_not_stampede():
    """After a storm one at once, then two, then four."""
    recovering = Storm("RECOVERING", NOW, "after a storm, 1 at once", pace=1)
    one = deed(NOW, "APPLIED", namespace="shop")
    assert refusals(asked(), history(storm=recovering)) == []
    assert refusals(asked(), history(one, storm=recovering)) == ["storm"]


def test_karpenter_2811_sensor_that_calls_everything_ill_stops_repair():
    """Healthy nodes were terminated because one component said they were not."""
    everything = {("demo", f"a{n}"): Health.ILL for n in range(30)}
    storm = Storm("CALM", NOW).seen(Sight(NOW, everything), Numbers().storm)
    assert refusals(asked(), history(storm=storm)) == ["storm"]


def test_kured_137_ghost_lock_is_not_passed_on():
    """A holder that vanished in the middle: its lock does not expire, a person resolves it."""
    gone = deed(ago(days=2), "INTENT")
    assert "concurrent.target" in refusals(asked(), history(gone))
    found_out = deed(ago(days=2), "UNKNOWN")
    assert refusals(asked(), history(found_out)) == ["breaker.target demo/deployments/web"]
    resolved = deed(ago(days=2), "UNKNOWN", resolved=True)
    assert refusals(asked(), history(resolved)) == []


def test_otaru_2918_replaced_pods_share_one_memory():
    """Evicted four times in 25 minutes, each time under another name."""
    done: list[Deed] = []
    for minute, suffix in enumerate("bcdfghjklm"):
        name, now = f"web-5d8c7b9f4-x2x9{suffix}", NOW + timedelta(minutes=2.5 * minute)
        ask = asked(name, kind=Kind.POD, verb="restart_pod")
        if not refusals(ask, history(*done, now=now)):
            done.append(deed(now, name=name, kind="pods", verb="restart_pod"))
    assert len(done) == 3


def test_robusta_limit_does_not_depend_on_a_label():
    """Without an incident's name the target is the incident."""
    past = [deed(at, "VERIFIED") for at in (ago(minutes=150), ago(minutes=100), ago(minutes=50))]
    assert refusals(asked(incident_id=""), history(*past)) == ["attempts"]


def test_medik8s_238_unsettled_target_is_not_remediated_again():
    """As long as nobody knows whether it helped, nothing else is tried."""
    applied: datetime = ago(hours=5)
    assert refusals(asked(), history(deed(applied, "APPLIED"))) == ["concurrent.target"]
