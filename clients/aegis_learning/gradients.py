"""Gradients of the model families in numpy: for whoever must not load a training framework.

Shapes: x is (rows, features) float32, y (rows,) int64, logits (rows, classes). The loss is the mean
cross-entropy in nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aegis_learning.models import Family
from aegis_learning.parameters import Array, Parameters
from aegis_learning.rows import Split

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: what went into each layer, and the logits."""

    inputs: tuple[Rows, ...]
    logits: Rows


def forward(family: Family, params: Parameters, x: Rows) -> Pass:
    """Returns the pass of these rows."""
    inputs, activation = [], x
    last = len(family.widths) - 1
    for layer in range(1, last + 1):
        inputs.append(activation)
        activation = activation @ params[f"layer{layer}.weight"].T + params[f"layer{layer}.bias"]
        if layer < last:
            activation = np.tanh(activation)
    return Pass(tuple(inputs), activation)


def probabilities(logits: Rows) -> Rows:
    """Returns the softmax of each row."""
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Rows = exp / exp.sum(axis=1, keepdims=True)
    return shares


def loss_error(logits: Rows, y: NDArray[np.int64]) -> Rows:
    """Returns the derivative of the mean loss by the logits."""
    error = probabilities(logits)
    error[np.arange(len(y)), y] -= 1
    return error / np.float32(len(y))


def backward(
    family: Family, params: Parameters, done: Pass, error: Rows
) -> tuple[Parameters, Rows]:
    """Returns the derivatives by the parameters and by the rows, given those by the logits."""
    gradient: Parameters = {}
    for layer in range(len(family.widths) - 1, 0, -1):
        given = done.inputs[layer - 1]
        gradient[f"layer{layer}.weight"] = error.T @ given
        gradient[f"layer{layer}.bias"] = error.sum(axis=0)
        error = error @ params[f"layer{layer}.weight"]
        if layer > 1:
            error = error * (1 - given**2)
    return gradient, error


def loss_gradient(family: Family, params: Parameters, rows: Split) -> Parameters:
    """Returns the gradient of the mean loss."""
    done = forward(family, params, rows.x)
    return backward(family, params, done, loss_error(done.logits, rows.y))[0]


def gradient_toward(family: Family, params: Parameters, x: Rows, shares: Rows) -> Parameters:
    """Returns the gradient of the mean cross-entropy to shares of classes, (rows, classes)."""
    done = forward(family, params, x)
    error = (probabilities(done.logits) - shares) / np.float32(len(x))
    return backward(family, params, done, error)[0]


def input_gradient(family: Family, params: Parameters, x: Rows, weights: Rows) -> Rows:
    """Returns the derivative by x of sum(weights * logits), the weights shaped as the logits."""
    done, error = forward(family, params, x), weights
    # As `backward`, without the derivatives by the parameters, which are most of its work.
    for layer in range(len(family.widths) - 1, 0, -1):
        error = error @ params[f"layer{layer}.weight"]
        if layer > 1:
            error = error * (1 - done.inputs[layer - 1] ** 2)
    return error


def sensitivities(family: Family, params: Parameters, x: Rows) -> Rows:
    """Returns the derivative of each logit, less their mean, by x: (classes, rows, features).

    What raises all logits alike changes no answer.
    """
    done, last = forward(family, params, x), len(family.widths) - 1
    weight = params[f"layer{last}.weight"]
    error = np.broadcast_to(
        (weight - weight.mean(axis=0))[:, None, :], (family.classes, len(x), weight.shape[1])
    )
    for layer in range(last - 1, 0, -1):
        error = (error * (1 - done.inputs[layer] ** 2)) @ params[f"layer{layer}.weight"]
    return error


def descend(
    family: Family, params: Parameters, rows: Split, *, steps: int, learning_rate: float
) -> Parameters:
    """Returns the parameters after so many steps of plain gradient descent on all rows."""
    after = dict(params)
    for _ in range(steps):
        gradient = loss_gradient(family, after, rows)
        after = {
            name: _stepped(values, gradient[name], learning_rate) for name, values in after.items()
        }
    return after


def _stepped(values: Array, gradient: Array, learning_rate: float) -> Array:
    return (values - learning_rate * gradient).astype(np.float32)
