"""Noise for counts: the distribution that is promised, and nothing below zero."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from aegis_learning.laplace import noised


@pytest.mark.parametrize("epsilon", [0.25, 1.0, 2.0])
def test_noise_has_the_discrete_laplace_distribution(epsilon: float):
    """P(x) = (1 - a) / (1 + a) a^|x| with a = exp(-epsilon), within five standard errors."""
    draws, middle = 20_000, 1000
    random = Random(7)
    drawn = np.array(noised([middle] * draws, epsilon, random)) - middle
    ratio = np.exp(-epsilon)
    for value in range(-4, 5):
        wanted = (1 - ratio) / (1 + ratio) * ratio ** abs(value)
        error = np.sqrt(wanted * (1 - wanted) / draws)
        assert abs(np.mean(drawn == value) - wanted) < 5 * error, value


def test_noised_count_is_never_negative():
    """A count below zero would be refused, and tell that there is none."""
    counts = noised([0] * 1000, 0.1, Random(7))
    assert min(counts) == 0
    assert max(counts) > 0


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 101.0, float("nan"), float("inf")])
def test_epsilon_that_promises_nothing_is_refused(epsilon: float):
    """Instead of noise that hides nobody."""
    with pytest.raises(ValueError, match="epsilon"):
        noised([1], epsilon)
