"""Which updates of a round are suspiciously like each other.

Of n updates of length 1, in sketches, every one has a nearest neighbour at a distance. Most sites
are honest, so the median m of those distances, in logarithms, is what rows of one's own and noise
of one's own leave between two honest updates, and their median absolute deviation s how much that
varies. Two updates are alike when they are nearer than 0.6 times the median *and* more than 3.5
deviations below it: a common direction, which every honest update shares, makes nobody suspicious,
nor do sites that all see much the same.

Nothing is said of a round of fewer than five: its median is anybody's. Where updates have no noise
and few numbers, honest ones may be as near as copies, and copies are not told from them:
docs/standing.md has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aegis_server.review import sketches

_UPDATES_MIN = 5
_NEARER = 0.5  # in logarithms: at most 0.6 of the usual distance
_DEVIATIONS = 3.5
# Deviations of the logarithm below this are chance: a tenth of the distance between two rounds.
_SPREAD_MIN = 0.05
_MAD = 1.4826
# Of each update, the nearest: a crowd of a thousand is one all the same.
_ALIKE_MAX = 50
_TINY = 1e-6


def alike(of_round: Sequence[bytes]) -> list[list[int]]:
    """Returns for each sketch the positions of those that are alike, nearest first.

    A sketch that is missing (empty) or of an update of zeros is like nobody.
    """
    found: list[list[int]] = [[] for _ in of_round]
    vectors = [sketches.values(each) if each else np.zeros(1) for each in of_round]
    able = [at for at, vector in enumerate(vectors) if np.linalg.norm(vector) > 0]
    if len(able) < _UPDATES_MIN:
        return found
    matrix = np.stack([vectors[at] / np.linalg.norm(vectors[at]) for at in able])
    distances = np.sqrt(np.maximum(2 - 2 * (matrix @ matrix.T), _TINY**2))
    np.fill_diagonal(distances, np.inf)
    logs = np.log(distances)
    nearest = logs.min(axis=1)
    usual = np.median(nearest)
    spread = max(_MAD * float(np.median(np.abs(nearest - usual))), _SPREAD_MIN)
    nearer = usual - logs
    close = (nearer >= _NEARER) & (nearer >= _DEVIATIONS * spread)
    for row, at in enumerate(able):
        order = np.argsort(logs[row], kind="stable")
        found[at] = [able[other] for other in order if close[row, other]][:_ALIKE_MAX]
    return found
