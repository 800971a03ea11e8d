"""Does an update stand out along the direction in which the round differs most?

`projection`: colluders share a direction that honest updates do not have, so it is among the first
singular ones of the round (Shejwalkar and Houmansadr 2021, "Manipulating the Byzantine", DnC).
`distance`: the mean distance to the nearest half of the others (Blanchard et al. 2017, Krum).
Both come from the products of updates scaled to length one: the length has an examiner of its own.
"""

from __future__ import annotations

import numpy as np

from aegis_server.review.deviations import Vector
from aegis_server.review.findings import Examination
from aegis_server.review.population import Population

NAME = "spectral"


def examine(population: Population) -> Examination:
    """Returns features only; what they are worth, the detector says."""
    n = len(population)
    unit = np.where(population.norms > 0, population.norms, 1.0)
    cosines = population.gram / np.outer(unit, unit)
    return Examination(
        [[] for _ in range(n)],
        {
            "spectral/projection": _projection(cosines, population),
            "spectral/distance": _distance(cosines, population),
        },
    )


def _projection(gram: Vector, population: Population) -> Vector:
    """Returns the length of each row along the first singular direction of the members."""
    members = population.members
    if members.sum() < 2:
        return np.zeros(len(gram))
    # Products of rows centred on the mean of the members.
    to_mean = gram[:, members].mean(axis=1)
    centred = gram - to_mean[:, None] - to_mean[None, :] + to_mean[members].mean()
    values, vectors = np.linalg.eigh(centred[np.ix_(members, members)])
    if values[-1] <= 0:
        return np.zeros(len(gram))
    along: Vector = np.abs(centred[:, members] @ vectors[:, -1]) / np.sqrt(values[-1])
    return along


def _distance(gram: Vector, population: Population) -> Vector:
    n = len(gram)
    square = np.diag(gram)
    distances = np.sqrt(np.maximum(square[:, None] + square[None, :] - 2 * gram, 0.0))
    found = np.zeros(n)
    for i in range(n):
        others = np.sort(distances[i, population.members & (np.arange(n) != i)])
        if len(others):
            found[i] = others[: (len(others) + 1) // 2].mean()
    return found
