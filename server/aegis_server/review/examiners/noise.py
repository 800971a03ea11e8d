"""Is the noise in it that was promised, and what of it has nobody else?

DP-SGD adds noise of a known deviation to every number of an update. Whatever the signal, a sum of
signal and noise is stochastically larger than the noise alone (Anderson 1955), so the length of
what the other updates do not explain cannot be much below that of the noise. Who leaves the noise
out, copies, or works on a mixture of others' updates, falls below.

`residual` is that length, as the share of the update that the others' span does not hold: large
for made-up noise, small for colluders' mixtures.
"""

from __future__ import annotations

import math

import numpy as np

from aegis_server.review.deviations import Vector
from aegis_server.review.findings import Examination, Finding, decisive
from aegis_server.review.population import Population

NAME = "noise"

# Deviations of chance below the promise, and what promise and practice may differ by: the steps of
# a run with a proximal term forget a little of their noise.
_CHANCE = 5.0
_SLACK = 0.9
# Below this a promise cannot be told from chance.
_RATIO_MIN = 0.3


def examine(population: Population) -> Examination:
    """Returns what of each update the others do not explain, and how that compares to noise."""
    n, d = population.matrix.shape
    promised = np.array([each.noise for each in population.case.submissions])
    own = _own(population)
    deviation = np.sqrt(own * population.norms**2 / max(d - n, 1))
    features = {"noise/residual": np.log(np.maximum(own, 1e-12)) / 2}
    threshold = _threshold(d - n)
    if threshold is None:
        return Examination([[] for _ in range(n)], features)
    return Examination(
        [
            [_finding(float(deviation[i] / promised[i]), threshold)] if promised[i] > 0 else []
            for i in range(n)
        ],
        features,
    )


def _own(population: Population) -> Vector:
    """Returns the share of each update's squared length outside the span of the others."""
    n = len(population)
    unit = np.where(population.norms > 0, population.norms, 1.0)
    cosines = population.gram / np.outer(unit, unit)
    if n == 1:
        return np.ones(1)
    # The diagonal of the inverse: one over what is left of each after the others.
    inverse = np.linalg.pinv(cosines + 1e-9 * np.eye(n), hermitian=True)
    own: Vector = np.clip(1 / np.maximum(np.diag(inverse), 1.0), 0.0, 1.0)
    return own


def _threshold(free: int) -> float | None:
    """Returns the least ratio of deviation to promise with so many free numbers."""
    if free < 1:
        return None
    square = 1 - _CHANCE * math.sqrt(2 / free)
    least = _SLACK * math.sqrt(square) if square > 0 else 0.0
    return least if least >= _RATIO_MIN else None


def _finding(ratio: float, threshold: float) -> Finding:
    strength = decisive(threshold / max(ratio, 1e-6))
    # A promise that is just kept is no suspicion: only what is below it counts at all.
    if strength < 1:
        strength = 0.0
    kept = "less than it" if strength >= 1 else "at least what was"
    text = f"it holds {kept} promised of noise: {ratio:.2f} times the deviation of every number"
    return Finding(NAME, "noise_ratio", ratio, threshold, strength, text)
