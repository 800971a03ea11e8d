"""When a champion is taken back: only for mistakes, and not because somebody attacks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aegis_server.review.detectors.drift import at_least, drift, in_good_standing
from aegis_server.review.detectors.store import Scored

TARGET = 0.03


def scored(
    rates: dict[str, float], updates: int = 25, seed: int = 1, overridden: float = 0.0
) -> list[Scored]:
    """Updates of participants that are counted out at these rates."""
    random = np.random.default_rng(seed)
    return [
        Scored(name, rejected, rejected and bool(random.random() < overridden))
        for name, rate in rates.items()
        for rejected in (random.random(updates) < rate).tolist()
    ]


def sites(count: int, rate: float) -> dict[str, float]:
    return {f"site-{number}": rate for number in range(count)}


@pytest.mark.parametrize(("k", "n", "p"), [(0, 9, 0.5), (3, 10, 0.2), (40, 500, 0.03), (9, 9, 0.9)])
def test_chance_is_the_binomial_distributions(k: int, n: int, p: float):
    """The sum of its upper end."""
    exact = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
    assert at_least(k, n, p) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_detector_that_is_as_it_should_be_stays(seed: int):
    """Nothing speaks against it, whatever the draw."""
    assert drift(scored(sites(20, TARGET), seed=seed), TARGET) is None


def test_detector_that_counts_everybody_out_goes():
    """Five times its target is seen in five hundred updates of twenty sites."""
    found = drift(scored(sites(20, 5 * TARGET)), TARGET)
    assert found is not None
    assert "of participants in good standing were counted out" in str(found)


def test_little_is_no_evidence():
    """Forty-nine updates say nothing, even when all of them were counted out."""
    assert drift([Scored(f"s{i % 7}", True, True) for i in range(49)], TARGET) is None
    assert drift([Scored(f"s{i % 7}", True, True) for i in range(50)], TARGET) is not None


@pytest.mark.parametrize("rate", [0.2, 0.5, 1.0])
def test_attackers_cannot_have_a_good_detector_taken_back(rate: float):
    """A third of the sites may be counted out as often as they like."""
    attacked = sites(14, TARGET) | {f"evil-{number}": rate for number in range(6)}
    for seed in range(10):
        assert drift(scored(attacked, seed=seed), TARGET) is None


def test_sites_in_quarantine_say_nothing():
    """They are no longer taken for honest, whatever their number."""
    bad = {f"evil-{number}": 1.0 for number in range(10)}
    attacked = scored(sites(10, TARGET) | bad)
    assert drift(attacked, TARGET) is not None
    assert drift(attacked, TARGET, set(bad)) is None
    assert {each.participant for each in in_good_standing(attacked, set(bad))} <= sites(
        10, 0
    ).keys()


def test_what_people_accept_against_the_detector_counts_whoever_sent_it():
    """A site that is always counted out and always accepted shows that the detector errs."""
    found = drift(scored(sites(20, TARGET) | {"small": 1.0}, overridden=1.0), TARGET)
    assert found is not None
    assert "accepted by a person" in str(found)
