"""Who gave what to a model, and what it would be without them."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_learning.aggregation.fedadam import MOMENTUM
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.fedavgm import FedAvgM
from aegis_learning.aggregation.median import FedMedian
from aegis_learning.aggregation.updates import Updates
from aegis_server.review.giving import Gifts

NAMES = ("north", "south", "west")
ROWS = (10.0, 30.0, 60.0)


def drawn(count: int) -> list[dict[str, np.ndarray]]:
    """Rounds of updates."""
    random = np.random.default_rng(5)
    return [
        {name: random.normal(size=7).astype(np.float32) for name in NAMES} for _ in range(count)
    ]


def made(rounds, momentum: float):
    """Model, velocity and gifts after these rounds."""
    model, gifts, state = np.zeros(7, np.float32), Gifts(momentum), None
    for updates in rounds:
        rule = FedAvgM(momentum=momentum, state=state) if momentum else FedAvg()
        weights = [ROWS[NAMES.index(name)] for name in updates]
        done = rule.aggregate(Updates.of(list(updates.values()), weights))
        gifts = gifts.and_of(updates, done, gifts)
        model, state = model + done.update, done.state
    return model, state, gifts


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_gifts_add_up_to_the_model(momentum: float):
    """And their velocities to what the rule remembers."""
    model, state, gifts = made(drawn(4), momentum)
    assert np.allclose(sum(g.total for g in gifts.by_name.values()), model, atol=1e-5)
    assert sum(g.shares for g in gifts.by_name.values()) == pytest.approx(4)
    if state is not None:
        velocity = sum(g.velocity for g in gifts.by_name.values())
        assert np.allclose(velocity, state[MOMENTUM], atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_without_somebody_it_is_what_the_others_would_have_made(momentum: float):
    """Of the same updates, from the first round to the next one, with momentum or without."""
    rounds = drawn(5)
    others = [{n: u for n, u in each.items() if n != "west"} for each in rounds]
    wanted, wanted_state, _ = made(others, momentum)
    model, state, gifts = made(rounds[:-1], momentum)
    lost = gifts.without({"west"})
    rule = FedAvgM(momentum=momentum, state=state) if momentum else FedAvg()
    done = rule.aggregate(Updates.of(list(others[-1].values()), ROWS[:2]))
    assert lost.model is not None
    assert np.allclose(model + done.update + lost.model, wanted, atol=1e-5)
    if momentum:
        assert lost.velocity is not None
        assert np.allclose(done.state[MOMENTUM] + lost.velocity, wanted_state[MOMENTUM], atol=1e-5)
    after = lost.gifts.and_of(others[-1], done, gifts)
    assert np.allclose(sum(g.total for g in after.by_name.values()), wanted, atol=1e-5)


def test_who_gave_nothing_takes_nothing_along():
    """A newcomer, and whoever was taken out before."""
    _, _, gifts = made(drawn(2), 0.0)
    assert gifts.without({"east"}).model is None
    once = gifts.without({"west"})
    assert once.gifts.without({"west"}).model is None


def test_everybody_cannot_be_taken_out():
    """There would be no model."""
    _, _, gifts = made(drawn(2), 0.0)
    assert gifts.without(set(NAMES)).model is None


def test_a_rule_that_is_no_weighted_mean_ends_the_account():
    """Nobody knows whose a median is, in this round or later."""
    (first, second) = drawn(2)
    median = FedMedian(participants=1).aggregate(Updates.of(list(first.values()), ROWS))
    gifts = Gifts(0.0).and_of(first, median, Gifts(0.0))
    assert not gifts.known
    mean = FedAvg().aggregate(Updates.of(list(second.values()), ROWS))
    assert not gifts.and_of(second, mean, gifts).known
    assert gifts.without({"west"}).model is None


def test_momentum_that_was_not_told_ends_the_account():
    """A step that is more than the mean is not explained."""
    rounds = drawn(2)
    first = FedAvgM(momentum=0.5).aggregate(Updates.of(list(rounds[0].values()), ROWS))
    second = FedAvgM(momentum=0.5, state=first.state).aggregate(
        Updates.of(list(rounds[1].values()), ROWS)
    )
    gifts = Gifts(0.0).and_of(rounds[0], first, Gifts(0.0))
    assert gifts.known
    assert not gifts.and_of(rounds[1], second, gifts).known
