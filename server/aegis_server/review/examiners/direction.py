"""Where does an update point: to where the others go, to where the golden rows would go?

`root`: the cosine to what a site with the golden rows would have sent, the trust score of FLTrust
(Cao et al. 2021). It needs no peers, so a majority of colluders does not move it. `reach`: how many
times as far as that update it goes there, with the share its rows have in the mean. `others`: the
cosine to the mean of the other members, each scaled to length one, so that nobody weighs more by
being long. `median` and `signs` hold it against the coordinate-wise median of the others.
"""

from __future__ import annotations

import numpy as np

from aegis_server.review.deviations import Members, Vector, medians_of_others, ratio
from aegis_server.review.findings import Examination, Finding, corroborating, indicative
from aegis_server.review.population import Population, blocks

NAME = "direction"

# Below this the update points away from where the others go.
COSINE = -0.5
# Independent noise agrees in half of the signs.
SIGN_AGREEMENT = 0.35


def examine(population: Population) -> Examination:
    """Returns the directions; findings only where there are peers to have one."""
    n = len(population)
    unit = np.where(population.norms > 0, population.norms, 1.0)
    root = population.root
    length = float(np.linalg.norm(root.astype(np.float64)))
    along = population.once("along root", lambda: population.along(root)) / (length or 1.0)
    to_root = along / unit
    cosines = population.gram / np.outer(unit, unit)
    features = {
        "direction/root": to_root,
        "direction/reach": n * population.weights * along / (length or 1.0),
        "direction/others": to_others(cosines, population.members),
        "direction/layer": _least_layer(population),
    }
    if n < 2:
        return Examination([[_root_finding(float(c))] for c in to_root], features)
    median, signs = population.once("median", lambda: _to_median(population))
    features["direction/signs"] = signs
    return Examination(
        [
            [
                _root_finding(float(to_root[i])),
                _cosine_finding(float(median[i])),
                _sign_finding(float(signs[i])),
            ]
            for i in range(n)
        ],
        features,
    )


def to_others(gram: Vector, members: Members) -> Vector:
    """Returns each update's cosine to the mean of the other members, from their products."""
    # What each has with all members, less with itself when it is one.
    own = np.where(members, np.diag(gram), 0.0)
    with_others = gram[:, members].sum(axis=1) - own
    among = gram[np.ix_(members, members)].sum()
    # The squared length of the others' sum.
    square = among - np.where(members, 2 * with_others + own, 0.0)
    return ratio(with_others, np.sqrt(np.maximum(square * np.diag(gram), 0.0)))


def _least_layer(population: Population) -> Vector:
    """Returns the smallest cosine to the others that any tensor of an update has."""
    found = []
    for name, part in population.layers.items():
        if part.stop - part.start < 2:
            continue
        gram = population.grams[name]
        norms = np.sqrt(np.diag(gram))
        found.append(to_others(ratio(gram, np.outer(norms, norms)), population.members))
    least: Vector = np.min(found, axis=0)
    return least


def _to_median(population: Population) -> tuple[Vector, Vector]:
    """Returns each row's cosine to, and share of signs shared with, the median of the others."""
    matrix = population.sampled
    n = len(matrix)
    dot, square, agree, own = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    for block in blocks(matrix):
        others = medians_of_others(block)
        dot += (block * others).sum(axis=1)
        square += (others**2).sum(axis=1)
        own += (block**2).sum(axis=1)
        agree += (np.sign(block) == np.sign(others)).sum(axis=1)
    return ratio(dot, np.sqrt(own * square)), agree / matrix.shape[1]


def _root_finding(cosine: float) -> Finding:
    away = "away from" if cosine < 0 else "to"
    text = f"it points {away} where the golden rows lead (cosine {cosine:.2f})"
    return Finding(NAME, "root_cosine", cosine, COSINE, indicative(cosine / COSINE), text)


def _cosine_finding(cosine: float) -> Finding:
    direction = "against" if cosine <= COSINE else "not against"
    return Finding(
        NAME,
        "cosine_to_median",
        cosine,
        COSINE,
        corroborating(cosine / COSINE),
        f"it points {direction} the median of the other updates (cosine {cosine:.2f})",
    )


def _sign_finding(agreement: float) -> Finding:
    return Finding(
        NAME,
        "sign_agreement",
        agreement,
        SIGN_AGREEMENT,
        corroborating((0.5 - agreement) / (0.5 - SIGN_AGREEMENT)),
        f"{agreement:.0%} of its signs are those of the other updates' median; chance gives 50 %",
    )
