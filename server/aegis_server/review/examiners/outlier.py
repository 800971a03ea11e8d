"""Which updates do not look like the others of their round?

Every number is compared within the round: under privacy noise absolute values drift from round to
round, and thresholds on them end up rejecting everybody. Each update is held against the *other*
ones (leave one out), because among five values an outlier moves a median it is part of.

Length is the sharpest measure. What an honest DP-SGD update weighs is mostly noise, and the noise
of a site falls with its number of examples (standard deviation ~ clip * sigma / (rate * examples)).
So lengths are compared after correction for enrolled examples: times examples^1 when noise
explains them, times examples^0 when the signal does, or half way; the round's own lengths say
which correction makes them agree. Honest lengths then differ by some per cent; a poisoned update
that is to outweigh its honest peers has to be several times too long.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aegis_learning.parameters import Parameters, flatten
from aegis_server.review.findings import Finding, corroborating, decisive

EXAMINER = "outlier"

# In robust standard deviations of the log length, i.e. about 1.8 times too long. Of honest updates
# 99 % stay below 1 where noise dominates, below 2.8 where the signal does (few parameters). With
# hardly any noise (epsilon 100) lengths follow the labels a site has, and some 7 % are above.
NORM_Z = 3.0
LAYER_NORM_Z = 5.0
# Below this the update points away from where the others go.
COSINE = -0.5
# Independent noise agrees in half of the signs.
SIGN_AGREEMENT = 0.35
# No two sites train the same update: independent noise and data keep them apart.
TWIN_COSINE = 0.999

# The median absolute deviation of four values can be zero by chance; lengths of honest updates
# differ by some 10-20 % whatever the round says.
_SPREAD_MIN = 0.2
# An explanation other than noise has to fit this much better before it is believed.
_FIT_MARGIN = 0.1
_EXPONENTS = (1.0, 0.5, 0.0)
_MAD_TO_SIGMA = 1.4826
_BLOCK = 1 << 16

Vector: TypeAlias = NDArray[np.float64]


def examine(updates: Sequence[Parameters], examples: Sequence[int]) -> list[list[Finding]]:
    """Returns the findings for each update; none when it has no peers.

    `examples` are the rows enrolled by each update's participant, 0 when unknown.
    """
    if len(updates) < 2:
        return [[] for _ in updates]
    matrix = np.stack([_flat(update) for update in updates])
    rows = np.array(examples, dtype=np.float64)
    norm_z = _length_z(np.linalg.norm(matrix, axis=1), rows, matrix.shape[1])
    layers, layer_z = _layer_z(updates, rows)
    cosine, agreement = _direction(matrix)
    twin = _largest_cosine(matrix)
    return [
        [
            _norm_finding(float(norm_z[i])),
            _layer_finding(float(layer_z[i]), layers[i]),
            _cosine_finding(float(cosine[i])),
            _sign_finding(float(agreement[i])),
            _twin_finding(float(twin[i])),
        ]
        for i in range(len(updates))
    ]


def medians_of_others(values: Vector) -> Vector:
    """Returns, for each row of (n >= 2, columns), the column medians of all the other rows."""
    n = len(values)
    ranks = values.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    ordered = np.sort(values, axis=0)

    def others(position: int) -> Vector:
        above: Vector = np.where(position < ranks, ordered[position], ordered[position + 1])
        return above

    middle: Vector = (others((n - 2) // 2) + others((n - 1) // 2)) / 2
    return middle


def robust_z(values: Vector, spread_min: float) -> Vector:
    """Returns each value's distance from the median of the others, in their deviations.

    The deviation is the median absolute one, scaled to a normal's sigma, never below `spread_min`.
    """
    centres = medians_of_others(values[:, None])[:, 0]
    distances: Vector = np.abs(values[None, :] - centres[:, None])
    peers = distances[~np.eye(len(values), dtype=bool)].reshape(len(values), -1)
    spread = np.maximum(_MAD_TO_SIGMA * np.median(peers, axis=1), spread_min)
    z: Vector = (values - centres) / spread
    return z


def _length_z(norms: Vector, examples: Vector, dimensions: int) -> Vector:
    logs = np.log(np.maximum(norms, np.finfo(np.float64).tiny))
    # The length of pure noise in d dimensions varies by 1 / sqrt(2 d): short layers vary more.
    floor = max(_SPREAD_MIN, math.sqrt(2 / dimensions))
    return robust_z(_corrected(logs, examples), floor)


def _corrected(logs: Vector, examples: Vector) -> Vector:
    if (examples <= 0).any():
        return logs
    best, best_fit = logs, math.inf
    for exponent in _EXPONENTS:
        corrected = logs + exponent * np.log(examples)
        fit = float(np.median(np.abs(corrected - np.median(corrected))))
        if fit < best_fit - _FIT_MARGIN:
            best, best_fit = corrected, fit
    return best


def _layer_z(updates: Sequence[Parameters], examples: Vector) -> tuple[list[str], Vector]:
    names = sorted(updates[0])
    columns = []
    for name in names:
        norms = np.array([np.linalg.norm(update[name].astype(np.float64)) for update in updates])
        columns.append(_length_z(norms, examples, max(updates[0][name].size, 1)))
    z = np.stack(columns, axis=1)
    worst = z.argmax(axis=1)
    return [names[i] for i in worst], z.max(axis=1)


def _direction(matrix: Vector) -> tuple[Vector, Vector]:
    """Returns each row's cosine to, and share of signs shared with, the median of the others."""
    n = len(matrix)
    dot, square, agree = np.zeros(n), np.zeros(n), np.zeros(n)
    for block in _blocks(matrix):
        others = medians_of_others(block)
        dot += (block * others).sum(axis=1)
        square += (others**2).sum(axis=1)
        agree += (np.sign(block) == np.sign(others)).sum(axis=1)
    lengths = np.linalg.norm(matrix, axis=1) * np.sqrt(square)
    return _ratio(dot, lengths), agree / matrix.shape[1]


def _largest_cosine(matrix: Vector) -> Vector:
    gram = np.zeros((len(matrix), len(matrix)))
    for block in _blocks(matrix):
        gram += block @ block.T
    norms = np.sqrt(np.diag(gram))
    cosines = _ratio(gram, np.outer(norms, norms))
    np.fill_diagonal(cosines, -1.0)
    largest: Vector = cosines.max(axis=1)
    return largest


def _blocks(matrix: Vector) -> Iterator[Vector]:
    # Sorting needs several times the memory of what it sorts: a block of columns at a time.
    for start in range(0, matrix.shape[1], _BLOCK):
        yield matrix[:, start : start + _BLOCK]


def _ratio(above: Vector, below: Vector) -> Vector:
    # An update of zeros has no direction: call it orthogonal to everything.
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _flat(update: Parameters) -> Vector:
    # float64: the square of a float32 may overflow float32.
    return flatten(update).astype(np.float64)


def _norm_finding(z: float) -> Finding:
    strength = decisive(z / NORM_Z)
    text = "its length is ordinary for its number of examples"
    if strength >= 1:
        text = f"it is far longer than the round's other updates: {z:.1f} deviations"
    return Finding(EXAMINER, "norm_z", z, NORM_Z, strength, text)


def _layer_finding(z: float, layer: str) -> Finding:
    return Finding(
        EXAMINER,
        "layer_norm_z",
        z,
        LAYER_NORM_Z,
        corroborating(z / LAYER_NORM_Z),
        f"the layer that stands out most is {layer}: {z:.1f} deviations",
    )


def _cosine_finding(cosine: float) -> Finding:
    direction = "against" if cosine <= COSINE else "not against"
    return Finding(
        EXAMINER,
        "cosine_to_median",
        cosine,
        COSINE,
        corroborating(cosine / COSINE),
        f"it points {direction} the median of the other updates (cosine {cosine:.2f})",
    )


def _sign_finding(agreement: float) -> Finding:
    return Finding(
        EXAMINER,
        "sign_agreement",
        agreement,
        SIGN_AGREEMENT,
        corroborating((0.5 - agreement) / (0.5 - SIGN_AGREEMENT)),
        f"{agreement:.0%} of its signs are those of the other updates' median; chance gives 50 %",
    )


def _twin_finding(cosine: float) -> Finding:
    strength = decisive((1 - TWIN_COSINE) / max(1 - cosine, 1e-9))
    text = "no other update of the round is a copy of it"
    if strength >= 1:
        text = "another update of the round points the same way to the third decimal: one copied"
    return Finding(EXAMINER, "largest_cosine", cosine, TWIN_COSINE, strength, text)
