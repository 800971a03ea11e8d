"""Arithmetic of the examiners that ask the golden rows: golden_set and harm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.unit.review.factories import measured

from aegis_learning import models, parameters
from aegis_learning.rows import Split
from aegis_server.review.examiners import golden_set, harm
from aegis_server.review.population import Population
from aegis_server.review.quality import LOSS_MAX, areas, calibration_error, quality
from aegis_server.review.vetting import Case, Submission

FAMILY = models.family("logistic", 1, 2)
# One row of class 1 with feature 1; weights (0, w) give a loss of log(1 + exp(-w)).
GOLDEN = Split(np.ones((1, 1), np.float32), np.array([1]))


def loss(w: float) -> float:
    return math.log1p(math.exp(-w))


def params(w: float) -> parameters.Parameters:
    return {
        "layer1.weight": np.array([[0.0], [w]], np.float32),
        "layer1.bias": np.zeros(2, np.float32),
    }


def a_population(*deltas: float, examples=None, golden: Split = GOLDEN, out=()) -> Population:
    rows = examples or [10] * len(deltas)
    submissions = tuple(
        Submission(f"u{i}", parameters.encode(params(delta)), rows[i])
        for i, delta in enumerate(deltas)
    )
    population = Population(Case(FAMILY, golden, parameters.encode(params(0.0)), submissions))
    return population.among(np.array([i not in out for i in range(len(deltas))]))


def harms(*deltas: float, **options) -> list[float]:
    return measured(harm.examine(a_population(*deltas, **options)), "harm")


def test_harm_is_what_the_mean_loses_by_one_update():
    """loss(mean of all) - loss(mean of the others)."""
    assert harms(1.0, 1.0, 0.4)[2] == pytest.approx(loss(0.8) - loss(1.0), abs=1e-6)


def test_mean_is_weighted_by_enrolled_examples():
    """As the aggregation will weigh it: 30 and 10 rows give (3 * 1 + 0.4) / 4."""
    found = harms(1.0, 0.4, examples=[30, 10])
    assert found[1] == pytest.approx(loss(0.85) - loss(1.0), abs=1e-6)


def test_worst_update_is_set_aside_before_the_others_are_measured():
    """In a poisoned mean honest updates look strange; without the poison they do not."""
    found = harms(1.0, 1.0, 0.9, 0.9, -30.0)
    assert found[4] > harm.HARM
    assert all(abs(each) < 0.05 for each in found[:4])


def test_who_is_no_member_is_outside_the_mean():
    """It is measured as an addition to the members."""
    found = harms(1.0, 1.0, 7.0, out={2})
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[2] == pytest.approx(loss(3.0) - loss(1.0), abs=1e-6)


def test_ruined_round_counts_against_all():
    """Every update does its share, none stands out: the round is held as a whole."""
    found = harm.examine(a_population(-2.0, -2.0, -2.0))
    assert measured(found, "round_loss") == pytest.approx([loss(-2.0) - loss(0.0)] * 3)
    assert all(f.strength > 1 for each in found.findings for f in each if f.measure == "round_loss")


def test_lone_update_is_compared_with_no_change():
    """Without peers the other mean is the base itself."""
    assert harms(-3.0)[0] == pytest.approx(loss(-3.0) - loss(0.0), abs=1e-6)


def test_what_an_update_does_alone_is_relative_to_the_others():
    """What every site does alone is no reason against one of them."""
    found = golden_set.examine(a_population(1.0, 1.0, -1.0))
    assert measured(found, "loss_excess")[2] == pytest.approx(loss(-1.0) - loss(1.0), abs=1e-6)
    # The first one's others are right and wrong: their median is half.
    assert measured(found, "accuracy_drop") == [-0.5, -0.5, 1.0]
    assert measured(found, "recall_drop")[2] == 1.0
    assert all(f.strength < 1 for each in found.findings for f in each)


def test_pull_is_the_cosine_to_the_slope_of_the_loss():
    """An update that goes straight up the slope has cosine one, its opposite minus one."""
    population = a_population(0.5, -0.5)
    down, up = golden_set.examine(population).features["golden-set/pull"]
    # A quarter of the slope is along w: the other weight and both biases share the rest equally.
    assert (down, up) == pytest.approx((-0.5, 0.5), abs=1e-6)


def test_overflowing_model_is_the_worst_not_an_error():
    """A loss that is no number stands for a loss of 1,000 nats."""
    for delta in (3e38, -3e38):
        population = a_population(1.0, 1.0, delta)
        for examiner in (golden_set, harm):
            found = examiner.examine(population)
            assert all(math.isfinite(f.value) for each in found.findings for f in each)
            assert all(np.isfinite(values).all() for values in found.features.values())
    assert harms(1.0, 1.0, -3e38)[2] > harm.HARM


def test_golden_rows_of_one_class_have_no_ranking():
    """The area is that of a guess for everybody, so that nobody stands out by it."""
    found = golden_set.examine(a_population(1.0, 0.5, -1.0))
    assert measured(found, "auc_drop") == [0.0, 0.0, 0.0]


def test_quality_of_known_answers():
    """Two of three right, with confidence one."""
    logits = np.array([[9.0, -9.0], [9.0, -9.0], [-9.0, 9.0]], np.float32) * 10
    found = quality(logits, np.array([0, 1, 1]))
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.recalls.tolist() == [1.0, 0.5]
    assert found.calibration == pytest.approx(1 / 3, abs=1e-6)
    assert found.auc == pytest.approx(0.75)


def test_answers_that_are_no_numbers_are_the_worst():
    """NaN is no excuse."""
    found = quality(np.full((2, 2), np.nan, np.float32), np.array([0, 1]))
    assert (found.loss, found.accuracy, found.calibration) == (LOSS_MAX, 0.0, 1.0)


def test_equal_answers_rank_nothing():
    """Ties count half, whatever the order of the rows."""
    assert areas(np.full((4, 3), 1 / 3), np.array([0, 0, 1, 2])) == 0.5


def test_calibration_error_is_confidence_beyond_accuracy():
    """Sure of 80 %, right in half of the rows: 30 %."""
    shares = np.array([[0.8, 0.2]] * 4)
    assert calibration_error(shares, np.array([0, 0, 1, 1])) == pytest.approx(0.3)
