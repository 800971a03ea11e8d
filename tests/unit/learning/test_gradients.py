"""Derivatives by the rows are those that a whole backward pass gives."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_learning import gradients, models
from aegis_learning.rows import Split


@pytest.mark.parametrize("name", ["logistic", "mlp-7", "mlp-7-5"])
def test_input_gradient_is_that_of_the_backward_pass(name: str) -> None:
    """To the last bit; it only leaves out the parameters."""
    family = models.family(name, 4, 3)
    random = np.random.default_rng(1)
    params = family.initial(2)
    x = random.normal(size=(9, 4)).astype(np.float32)
    weights = random.normal(size=(9, 3)).astype(np.float32)
    done = gradients.forward(family, params, x)
    expected = gradients.backward(family, params, done, weights)[1]
    assert np.array_equal(gradients.input_gradient(family, params, x, weights), expected)


def test_gradient_toward_shares_is_the_mean_of_those_of_the_labels() -> None:
    """A row that is half of one class and half of another teaches half of each."""
    family = models.family("mlp-7", 3, 4)
    params, random = family.initial(2), np.random.default_rng(1)
    x = random.normal(size=(5, 3)).astype(np.float32)
    one, other = random.integers(0, 4, (2, 5))
    shares = (np.eye(4)[one] + np.eye(4)[other]).astype(np.float32) / 2
    found = gradients.gradient_toward(family, params, x, shares)
    halves = [gradients.loss_gradient(family, params, Split(x, y)) for y in (one, other)]
    for name, values in found.items():
        np.testing.assert_allclose(values, (halves[0][name] + halves[1][name]) / 2, atol=1e-6)
