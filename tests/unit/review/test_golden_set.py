"""Arithmetic of the golden-set examiner, on a model with one parameter."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aegis_learning.datasets import Split
from aegis_server.review.examiners.golden_set import examine

# One row of class 1; the logits are (0, w), so the loss is log(1 + exp(-w)).
GOLDEN = Split(np.ones((1, 1), np.float32), np.array([1]))


def logits(params: dict, x: np.ndarray) -> np.ndarray:
    return np.array([[0.0, params["w"][0]]], np.float32)


def loss(w: float) -> float:
    return math.log1p(math.exp(-w))


def examined(*deltas: float, examples: list[int] | None = None, suspects: set[int] = frozenset()):
    rows = examples or [10] * len(deltas)
    base = {"w": np.zeros(1, np.float32)}
    changes = [{"w": np.array([delta], np.float32)} for delta in deltas]
    found = examine(base, changes, rows, suspects=suspects, logits=logits, golden=GOLDEN)
    return [{finding.measure: finding for finding in each} for each in found]


def test_harm_is_what_the_mean_loses_by_one_update():
    """loss(mean of all) - loss(mean of the others)."""
    found = examined(1.0, 1.0, 0.4)
    assert found[2]["harm"].value == pytest.approx(loss(0.8) - loss(1.0), abs=1e-6)


def test_mean_is_weighted_by_enrolled_examples():
    """As the aggregation will weigh it: 30 and 10 rows give (3 * 1 + 0.4) / 4."""
    found = examined(1.0, 0.4, examples=[30, 10])
    assert found[1]["harm"].value == pytest.approx(loss(0.85) - loss(1.0), abs=1e-6)


def test_worst_update_is_set_aside_before_the_others_are_measured():
    """In a poisoned mean honest updates look strange; without the poison they do not."""
    found = examined(1.0, 1.0, 0.9, 0.9, -30.0)
    assert found[4]["harm"].strength > 1
    assert all(abs(each["harm"].value) < 0.05 for each in found[:4])


def test_suspects_of_another_examiner_are_outside_the_mean():
    """A suspect is measured as an addition to the ordinary updates."""
    found = examined(1.0, 1.0, 7.0, suspects={2})
    assert found[0]["harm"].value == pytest.approx(0, abs=1e-6)
    assert found[2]["harm"].value == pytest.approx(loss(3.0) - loss(1.0), abs=1e-6)


def test_ruined_round_counts_against_all():
    """Every update does its share, none stands out: the round is held as a whole."""
    found = examined(-2.0, -2.0, -2.0)
    assert [loss(-2.0) - loss(0.0)] * 3 == pytest.approx([f["round_loss"].value for f in found])
    assert all(each["round_loss"].strength > 1 for each in found)


def test_loss_and_accuracy_alone_are_relative_to_the_others():
    """What every site does alone is no reason against one of them."""
    found = examined(1.0, 1.0, -1.0)
    assert found[2]["loss_excess"].value == pytest.approx(loss(-1.0) - loss(1.0), abs=1e-6)
    assert found[2]["accuracy_drop"].value == 1.0
    assert found[0]["loss_excess"].value < 0


def test_overflowing_model_is_the_worst_not_an_error():
    """A loss that is no number stands for a loss of 1,000 nats."""
    found = examined(1.0, 1.0, 3e38, suspects=set())
    overflow = examined(1.0, 1.0, -3e38)
    assert all(math.isfinite(f.value) for each in (*found, *overflow) for f in each.values())
    assert overflow[2]["harm"].strength > 1


def test_lone_update_is_compared_with_no_change():
    """Without peers the other mean is the base itself."""
    found = examined(-3.0)
    assert found[0]["harm"].value == pytest.approx(loss(-3.0) - loss(0.0), abs=1e-6)
