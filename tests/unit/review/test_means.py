"""Means without one update, out of a running sum, are what summing afresh gives."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.review.factories import measured

from aegis_learning import models, parameters
from aegis_learning.parameters import flatten
from aegis_learning.rows import Split
from aegis_server.review.case import Case, Submission
from aegis_server.review.examiners import harm
from aegis_server.review.means import Means
from aegis_server.review.population import Population

FAMILY = models.family("mlp-8", 6, 3)
SIZE = len(flatten(FAMILY.initial(0)))
MEASURES = ("harm", "harm_together", "round_loss")


class Plain(Means):
    """Sums all anew for every mean, in float64."""

    def model(self, members):
        population = self._population
        factors = np.where(members, population.weights, 0.0)
        mean = factors @ population.matrix.astype(np.float64) / (factors.sum() or 1.0)
        return population.moved(mean.astype(np.float32))


def a_population(seed: int, *, huge=(), zeros=(), spread: float = 0.1, known: bool = True):
    """A dozen updates of which some are 10^exponent times as long, or nothing."""
    random = np.random.default_rng(seed)
    matrix = random.normal(0.0, spread, (12, SIZE)).astype(np.float32)
    for place, exponent in enumerate(huge):
        matrix[place] *= np.float32(10.0**exponent)
    for place in zeros:
        matrix[place] = 0.0
    golden = Split(random.normal(size=(40, 6)).astype(np.float32), random.integers(0, 3, 40))
    submissions = tuple(
        Submission(
            f"u{i}",
            parameters.encode(parameters.unflatten(row, FAMILY.shapes)),
            int(random.integers(1, 90)) if known else 0,
        )
        for i, row in enumerate(matrix)
    )
    return Population(Case(FAMILY, golden, parameters.encode(FAMILY.initial(seed)), submissions))


ROUNDS = {
    "honest": {},
    "nobody enrolled rows": {"known": False},
    "large": {"spread": 3.0},
    "one huge": {"huge": (12,)},
    "two that are huge, one beside the other": {"huge": (30, 14)},
    "a staircase": {"huge": (36, 31, 26, 21, 16, 11, 6)},
    "overflowing": {"huge": (38, 38, 38)},
    "zeros": {"zeros": range(12)},
    "zeros beside a huge one": {"huge": (20,), "zeros": range(1, 12)},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ROUNDS)
def test_harm_is_what_plain_sums_find(name: str, seed: int, monkeypatch: pytest.MonkeyPatch):
    """Every finding of every update, up to rounding."""
    population = a_population(seed, **ROUNDS[name])
    found = harm.examine(population)
    monkeypatch.setattr(harm, "Means", Plain)
    plain = harm.examine(population)
    for measure in MEASURES:
        assert measured(found, measure) == pytest.approx(measured(plain, measure), abs=2e-6)


@pytest.mark.parametrize("name", ROUNDS)
def test_mean_does_not_depend_on_the_way_to_it(name: str):
    """Whoever was in the sum before has left nothing in it."""
    population = a_population(7, **ROUNDS[name])
    means, plain = Means(population), Plain(population)
    random = np.random.default_rng(3)
    for _ in range(60):
        members = random.random(12) < random.choice([0.0, 0.2, 0.5, 0.95])
        with np.errstate(over="ignore"):
            found, expected = flatten(means.model(members)), flatten(plain.model(members))
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_huge_update_leaves_no_rounding_behind():
    """A number of 10^30 and back: in one sum the others' numbers would be gone."""
    population = a_population(1, huge=(30,))
    means, nobody = Means(population), np.zeros(12, bool)
    means.model(~nobody)
    without = ~nobody
    without[0] = False
    moved = flatten(means.model(without)) - flatten(population.base)
    weights = population.weights[1:] / population.weights[1:].sum()
    assert moved == pytest.approx(weights @ population.matrix[1:], abs=1e-6)


def test_means_of_nobody_is_the_model_as_it_was():
    """However many there were before."""
    population = a_population(1)
    means = Means(population)
    means.model(np.ones(12, bool))
    assert np.array_equal(flatten(means.model(np.zeros(12, bool))), flatten(population.base))
