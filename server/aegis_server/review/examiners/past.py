"""Does a participant go on as before, and does it persist in going another way?

One round under privacy noise says little; noise averages out over rounds, and an attacker
persists. Sketches of a participant's earlier updates, each of length one, are added to the one of
now: what remains is where it has been going all the time (the aggregate memory of FoolsGold, Fung
et al. 2020, made short).
"""

from __future__ import annotations

import numpy as np

from aegis_server.review import sketches
from aegis_server.review.deviations import Vector, ratio
from aegis_server.review.examiners.direction import to_others
from aegis_server.review.findings import Examination
from aegis_server.review.population import Population

NAME = "past"


def examine(population: Population) -> Examination:
    """Returns directions over time; those of newcomers are the ones of now."""
    now, summed, remembered = population.once("paths", lambda: _paths(population))
    gram = _cosines(summed, summed)
    n = len(population)
    nearest = np.where(np.eye(n, dtype=bool), -1.0, gram).max(axis=1) if n > 1 else np.zeros(n)
    own = np.diag(_cosines(now, summed - now))
    usual = float(np.median(own[remembered])) if remembered.any() else 0.0
    features = {
        "past/own": np.where(remembered, own, usual),
        "past/others": to_others(gram, population.members),
        "past/nearest": -np.log(np.maximum(1 - nearest, 1e-9)),
    }
    return Examination([[] for _ in range(n)], features)


def _paths(population: Population) -> tuple[Vector, Vector, np.ndarray]:
    now = np.stack([_unit(sketches.values(each)) for each in population.sketches])
    summed = now.copy()
    for i, each in enumerate(population.case.submissions):
        for past in each.past:
            if past.sketch:
                summed[i] += _unit(sketches.values(past.sketch))
    remembered = np.array([any(p.sketch for p in s.past) for s in population.case.submissions])
    return now, summed, remembered


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 0 else vector


def _cosines(a: Vector, b: Vector) -> Vector:
    lengths = np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    return ratio(a @ b.T, lengths)
