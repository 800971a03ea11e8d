"""What does the model look at after an update: its SHAP fingerprint.

For a fixed set of golden rows, by class, the attribution of the label's logit (above the mean of
the other logits) to each feature: how much of the answer each feature made. For a linear model
that is exact, w * (x - mean) (Lundberg and Lee 2017, section 4.1); otherwise expected gradients
(Erion et al. 2021): gradients on the way from references to rows, one reference a row and step,
so that a round's updates cost a few passes each and not a kernel explainer's thousands.

Two models that were taught different things look at different features. What an update changes in
the fingerprint of the base model is held against the median of what the others change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aegis_learning import gradients
from aegis_learning.models import Family
from aegis_learning.parameters import Array, Parameters
from aegis_learning.rows import Split
from aegis_server.review.deviations import Vector, above_others, ratio
from aegis_server.review.findings import Examination, Finding, indicative
from aegis_server.review.population import Population

NAME = "fingerprint"

# Below this, features pull the answers the other way.
COSINE = -0.5
# Jensen-Shannon distance: 0 equal, 1 nothing in common.
DISTANCE = 0.7
PROBES = 50
_STEPS = 2
_SEED = 0x70726F6265


def examine(population: Population) -> Examination:
    """Returns how much each update changes the fingerprint otherwise than the others do."""
    n = len(population)
    prints = population.once("fingerprints", lambda: _of_round(population))
    changes = (prints[1:] - prints[0]).reshape(n, -1)
    shares = _shares(prints[1:].reshape(n, -1))
    cosines, distances = np.ones(n), np.zeros(n)
    if n > 1:
        cosines = _cosines(changes, changes - above_others(changes, population.members))
        usual = shares - above_others(shares, population.members)
        distances = _distances(shares, usual / usual.sum(axis=1, keepdims=True))
    return Examination(
        [
            [_cosine_finding(c), _distance_finding(d)] if n > 1 else []
            for c, d in zip(cosines.tolist(), distances.tolist(), strict=True)
        ],
        {"fingerprint/cosine": cosines, "fingerprint/distance": distances},
    )


def probes(y: NDArray[np.int64], count: int = PROBES) -> NDArray[np.int64]:
    """Returns positions of the rows that are looked at, given all labels: the first ones of each
    class in turn, so that a rare one is looked at as well."""
    rank = np.empty(len(y), np.int64)
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        rank[rows] = np.arange(len(rows))
    return np.sort(np.lexsort((y, rank))[:count])


def fingerprint(family: Family, params: Parameters, rows: Split, background: Array) -> Vector:
    """Returns attributions, shape (classes, features): the mean over the rows of each class.

    `background` has shape (references, features). A model whose numbers overflow has fingerprint
    zero: it looks at nothing.
    """
    weights = np.full((len(rows), family.classes), -1 / max(family.classes - 1, 1), np.float32)
    weights[np.arange(len(rows)), rows.y] = 1.0
    with np.errstate(all="ignore"):
        if len(family.widths) == 2:
            slopes = weights @ params["layer1.weight"]
            attributions = slopes * (rows.x - background.mean(axis=0))
        else:
            attributions = _expected(family, params, rows.x, weights, background)
    found = np.zeros((family.classes, family.features))
    for label in np.unique(rows.y):
        found[label] = attributions[rows.y == label].mean(axis=0)
    return found if np.isfinite(found).all() else np.zeros_like(found)


def _expected(
    family: Family, params: Parameters, x: Array, weights: Array, background: Array
) -> NDArray[np.float32]:
    random = np.random.default_rng(_SEED)
    total = np.zeros_like(x)
    for step in range(_STEPS):
        reference = background[random.integers(0, len(background), len(x))]
        # One draw in each part of the way.
        along = (step + random.random((len(x), 1))).astype(np.float32) / _STEPS
        between = reference + along * (x - reference)
        total += gradients.input_gradient(family, params, between, weights) * (x - reference)
    return (total / _STEPS).astype(np.float32)


def _of_round(population: Population) -> Vector:
    """Returns the fingerprints of the base model and of each update's, (1 + n, classes, d)."""
    family, golden = population.family, population.golden
    rows, background = golden.take(probes(golden.y)), golden.x
    models = [population.base, *(population.moved(row) for row in population.matrix)]
    return np.stack([fingerprint(family, params, rows, background) for params in models])


def _shares(prints: Vector) -> Vector:
    """Returns each row's attributions as shares of their sum; equal ones where there are none."""
    sizes = np.abs(prints)
    sums = sizes.sum(axis=1, keepdims=True)
    even = np.full_like(sizes, 1 / sizes.shape[1])
    shares: Vector = np.divide(sizes, sums, out=even, where=sums > 0)
    return shares


def _cosines(a: Vector, b: Vector) -> Vector:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return ratio((a * b).sum(axis=1), lengths)


def _distances(p: Vector, q: Vector) -> Vector:
    """Returns the square root of the Jensen-Shannon divergence in bits (Endres 2003)."""
    middle = (p + q) / 2

    def divergence(of: Vector) -> Vector:
        logs = np.log2(np.divide(of, middle, out=np.ones_like(of), where=of > 0))
        total: Vector = (of * logs).sum(axis=1)
        return total

    return np.sqrt(np.maximum((divergence(p) + divergence(q)) / 2, 0.0))


def _cosine_finding(cosine: float) -> Finding:
    text = f"what it teaches the model to look at has cosine {cosine:.2f} to what the others teach"
    return Finding(NAME, "cosine", cosine, COSINE, indicative(cosine / COSINE), text)


def _distance_finding(distance: float) -> Finding:
    text = f"after it, features weigh otherwise than after the others: distance {distance:.2f} of 1"
    strength = indicative(distance / DISTANCE)
    return Finding(NAME, "distance", distance, DISTANCE, strength, text)
