"""Backing off from what does not answer, and the clock the kernel vouches for."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.guarding import NOW, asked, gates, history, named

from aegis.errors import FailedPrecondition
from aegis_executor.guards import clock
from aegis_executor.guards.dependencies import Dependency
from aegis_executor.guards.gates import error_of


def test_waits_double_are_jittered_and_have_an_end():
    """Between half of it and all of it, so that many do not come back at once."""
    now = NOW
    for jitter, waits in ((1.0, [1, 2, 4, 8, 10, 10]), (0.0, [0.5, 1, 2, 4, 5, 5])):
        some = Dependency(
            "prometheus",
            clock=lambda: now,
            first_seconds=1,
            most_seconds=10,
            jitter=lambda jitter=jitter: jitter,
        )
        assert some.ready()
        for wait in waits:
            some.failed("no answer")
            assert some.breaker().probe_at == now + timedelta(seconds=wait)
            assert not some.ready()
        breaker = some.breaker()
        assert (breaker.state, breaker.since) == ("OPEN", NOW)
        assert breaker.cause == "6 times in a row: no answer"


def test_clock_that_goes_back_is_not_waited_for():
    """Or nothing would be asked for an hour, and nothing be done."""
    now = NOW
    some = Dependency("kubernetes", clock=lambda: now)
    some.failed("no answer")
    now -= timedelta(hours=1)
    assert some.ready()


def test_probe_is_due_after_the_wait_and_success_closes():
    """Half open is when it may be asked again."""
    now = NOW
    some = Dependency("loki", clock=lambda: now, jitter=lambda: 1.0)
    some.failed("x")
    now += timedelta(seconds=0.5)
    assert (some.ready(), some.breaker().state) == (True, "HALF_OPEN")
    some.succeeded()
    assert some.breaker().state == "CLOSED"


def test_many_failures_do_not_overflow():
    """A dependency may be away for a year."""
    some = Dependency("loki", clock=lambda: NOW, jitter=lambda: 1.0)
    for _ in range(5000):
        some.failed("x")
    assert some.breaker().probe_at == NOW + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("answer", "status", "trusted"),
    [(0, 0, True), (4, 0, True), (5, 0, False), (0, 0x40, False), (-1, 0, False), (5, 0x40, False)],
)
def test_kernel_says_whether_its_clock_is_kept(answer: int, status: int, trusted: bool):
    """TIME_ERROR, STA_UNSYNC and no answer at all are a no; a leap second is none."""
    assert clock.judged(answer, status) is trusted


def test_kernel_can_be_asked():
    """Whatever it says here, it says something."""
    assert clock.synchronised() in (True, False)


@pytest.mark.refuses("CLOCK_UNTRUSTED", step=12)
def test_untrusted_clock_refuses():
    """No age can be judged by it."""
    gate = named(gates(asked(), history(clock_trusted=False)), "clock")
    error = error_of(gate, NOW)
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "CLOCK_UNTRUSTED"
