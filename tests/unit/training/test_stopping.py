"""Early stop: from the losses alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.v1 import training_pb2
from aegis_server.training.stopping import stopped_early


def _plan(patience: int = 2, min_gain: float = 0.0) -> training_pb2.RunPlan:
    stop = training_pb2.EarlyStop(patience=patience, min_gain=min_gain)
    return training_pb2.RunPlan(early_stop=stop)


@pytest.mark.parametrize(
    ("losses", "over"),
    [
        ([], False),
        ([1.0, 0.9, 0.8], False),
        ([1.0, 0.9, 0.95], False),
        ([1.0, 0.9, 0.95, 0.91], True),
        ([1.0, 0.9, 0.9, 0.9], True),
        ([1.0, 1.1, 0.5, 0.6], False),
        ([1.0, math.nan, math.nan], True),
        ([1.0, math.inf, 0.9], False),
    ],
)
def test_run_is_over_after_rounds_without_a_better_loss(losses: list[float], over: bool) -> None:
    """Patience counts from the best; a loss that is no number is no gain."""
    assert bool(stopped_early(_plan(), losses)) is over


def test_gain_below_the_least_is_none() -> None:
    """A model that gets better by a hair for ever ends, too."""
    losses = [1.0, 0.999, 0.998]
    assert stopped_early(_plan(min_gain=0.01), losses) == (
        "stopped early: no gain on round 0 (loss 1.0000) for 2 rounds"
    )
    assert not stopped_early(_plan(min_gain=0.0001), losses)


def test_plan_without_early_stop_goes_on() -> None:
    """However bad it gets."""
    assert not stopped_early(training_pb2.RunPlan(), [1.0] * 100)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.integers(1, 5))
def test_first_round_that_stops_is_the_same_whoever_looks_again(
    losses: list[float], patience: int
) -> None:
    """Coordinator and server see the same prefix and agree; before it nobody stops."""
    plan = _plan(patience)
    ends = [n for n in range(1, len(losses) + 1) if stopped_early(plan, losses[:n])]
    if ends:
        first = losses[: ends[0]]
        assert len(first) - 1 - first.index(min(first)) >= patience
