"""Failpoints: they go off where they were told to, and nowhere else."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from aegis_executor.failpoints import POINTS, Failpoints


class Suffered:
    def __init__(self) -> None:
        self.signals: list[signal.Signals] = []

    def __call__(self, sent: signal.Signals) -> None:
        self.signals.append(sent)


def died_after(text: str, *reached: tuple[str, str]) -> int:
    """How many points were come by until it went off; 0 when it never did."""
    suffered = Suffered()
    points = Failpoints(text, suffer=suffered)
    for number, (point, verb) in enumerate(reached, 1):
        points.reach(point, verb)
        if suffered.signals:
            return number
    return 0


WAY = [(point, "scale_deployment") for point in POINTS]


def test_nothing_is_armed_by_default():
    """An empty text arms nothing."""
    assert died_after("", *WAY) == 0


@pytest.mark.parametrize("point", POINTS)
def test_named_point_goes_off(point: str):
    """The first time it comes by."""
    assert died_after(point, *WAY) == POINTS.index(point) + 1


def test_point_of_one_action_lets_others_pass():
    """`before-mutate:restart_pod` waits for a restart."""
    way = [("before-mutate", "scale_deployment"), ("before-mutate", "restart_pod")]
    assert died_after("before-mutate:restart_pod", *way) == 2


def test_point_goes_off_at_its_nth_hit():
    """Alone or together with an action."""
    hit = ("before-mutate", "restart_pod")
    assert died_after("before-mutate:3", hit, hit, hit) == 3
    other = ("before-mutate", "scale_deployment")
    assert died_after("before-mutate:restart_pod:2", hit, other, hit) == 3


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("after-read", signal.SIGKILL),
        ("after-read:stop", signal.SIGSTOP),
        ("after-read:restart_pod:stop", signal.SIGSTOP),
        ("after-read:restart_pod:1:stop", signal.SIGSTOP),
    ],
)
def test_process_dies_or_only_stops(text: str, sent: signal.Signals):
    """A machine that was paused goes on later, and must find out that it was replaced."""
    suffered = Suffered()
    Failpoints(text, suffer=suffered).reach("after-read", "restart_pod")
    assert suffered.signals == [sent]


@pytest.mark.parametrize("text", ["nowhere", "before-mutate:a:b:c:d", ":3"])
def test_unknown_point_is_refused(text: str):
    """A crash test that never crashes proves nothing."""
    with pytest.raises(ValueError, match="no failpoint"):
        Failpoints(text)


def test_it_kills_its_own_process():
    """As nothing could catch: SIGKILL."""
    program = "from aegis_executor.failpoints import Failpoints as F; F('after-read').reach('{}')"
    for point, code in (("before-claim", 0), ("after-read", -signal.SIGKILL)):
        ended = subprocess.run([sys.executable, "-c", program.format(point)], check=False)
        assert ended.returncode == code
