"""Derivatives by the rows are those that a whole backward pass gives."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_learning import gradients, models


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
