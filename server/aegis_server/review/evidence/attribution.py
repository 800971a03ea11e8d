"""What each input counts for in a model's answers: SHAP values, by expected gradients.

The attribution of feature i of row x to class c is the mean, over background rows b and points a
between 0 and 1, of (x_i - b_i) times the derivative of logit c by input i at b + a (x - b); the sum
over the features is then the logit less its mean over the background (Erion et al. 2021, "Improving
performance of deep learning models with axiomatic attribution priors and expected gradients"). It
is exact for a model without hidden layers. Nothing is drawn: points are spread evenly over the
pairs, so that equal models have equal attributions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aegis_learning.models import Family
from aegis_learning.parameters import Array, Parameters

Values = NDArray[np.float64]

# Multiplications one model may cost, and the pairs of rows it gets however large it is.
_BUDGET = 2_000_000_000
_PAIRS_MIN = 32
# So many points of the way from b to x take turns.
_POINTS = 8


def attributions(family: Family, params: Parameters, rows: Array) -> Values:
    """Returns the SHAP values of each row, shape (rows, features, classes), against all of them.

    Models that are too large for every pair of rows get fewer backgrounds. What overflows on the
    way is not finite.
    """
    backgrounds = _backgrounds(family, rows)
    turns = np.arange(len(backgrounds))[:, None]
    values = np.empty((len(rows), family.features, family.classes))
    with np.errstate(all="ignore"):
        for position, row in enumerate(rows):
            way = row - backgrounds
            points = (((turns + position) % _POINTS + 0.5) / _POINTS).astype(np.float32)
            slopes = _slopes(family, params, backgrounds + points * way)
            values[position] = (way[:, None, :] * slopes).mean(axis=0).T
    return values


def importance(values: Values) -> Values:
    """Returns the mean size of attributions over the rows, shape (features, classes)."""
    with np.errstate(all="ignore"):
        mean: Values = np.abs(values).mean(axis=0)
    return mean


def cosine(a: Values, b: Values) -> float:
    """Returns the cosine between two arrays of one shape; 0 where one is zero or not finite."""
    with np.errstate(all="ignore"):
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
        product = float((a * b).sum())
    return product / lengths if np.isfinite(product) and 0 < lengths < np.inf else 0.0


def _backgrounds(family: Family, rows: Array) -> Array:
    weights = sum(int(np.prod(shape)) for shape in family.shapes.values())
    pairs = max(_PAIRS_MIN, _BUDGET // (weights * (1 + family.classes)))
    count = max(1, min(len(rows), pairs // len(rows)))
    chosen: Array = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
    return chosen


def _slopes(family: Family, params: Parameters, x: Array) -> Array:
    """Returns the derivative of each logit by each input, shape (rows, classes, features)."""
    last = len(family.widths) - 1
    bends, activation = [], x
    for layer in range(1, last):
        weight, bias = params[f"layer{layer}.weight"], params[f"layer{layer}.bias"]
        activation = np.tanh(activation @ weight.T + bias)
        bends.append(1 - activation**2)
    slopes: Array = np.repeat(params[f"layer{last}.weight"][None], len(x), axis=0)
    for layer in range(last - 1, 0, -1):
        slopes = (slopes * bends[layer - 1][:, None, :]) @ params[f"layer{layer}.weight"]
    return slopes
