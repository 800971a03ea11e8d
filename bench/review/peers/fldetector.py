"""FLDetector: a site's update should follow from its last one.

Zhang, Cao, Jia, Gong, "FLDetector: Defending Federated Learning Against Model Poisoning Attacks via
Detecting Malicious Clients", KDD 2022: the update is predicted from the site's last one with an
L-BFGS estimate of the Hessian; the distances, normalised in the round and averaged over a window,
are clustered. When the gap statistic says that there are clusters, the farther of two is removed
for good, and training starts again.

The paper's window of ten rounds would be half of our runs: here it is five.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from aegis_learning.parameters import flatten
from aegis_server.review.lab.simulating import Decided, Sent
from aegis_server.review.lab.worlds import World
from peers.kept import keep

Vector = NDArray[np.float64]
_WINDOW = 5
_REFERENCES = 10
_CLUSTERS_MAX = 4


@dataclass(slots=True)
class FLDetector:
    """What the window remembers: models, means and updates of the last rounds, and distances."""

    world: World
    _random: np.random.Generator = field(init=False)
    _start: Vector | None = field(default=None, init=False)
    _last: tuple[Vector, Vector, Vector] | None = field(default=None, init=False)
    _moves: list[Vector] = field(default_factory=list, init=False)
    _changes: list[Vector] = field(default_factory=list, init=False)
    _distances: list[Vector] = field(default_factory=list, init=False)
    _removed: NDArray[np.bool_] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng([self.world.seed, 0x666C64])

    def decide(self, sent: Sent) -> Decided:
        """See `Gate`."""
        matrix, model = sent.matrix.astype(np.float64), flatten(sent.base).astype(np.float64)
        n = len(matrix)
        if self._start is None or self._removed is None:
            self._start, self._removed = model, np.zeros(n, bool)
        decided = keep(sent, self._removed.copy(), np.zeros(n))
        mean = decided.delta.astype(np.float64)
        scores = np.zeros(n)
        if self._last is not None:
            before, last_mean, last = self._last
            if self._moves:
                product = hessian_product(self._moves, self._changes, model - before)
                distances = np.linalg.norm(matrix - last - product, axis=1)
                self._distances.append(distances / max(float(distances.sum()), 1e-12))
            self._moves = [*self._moves, model - before][-_WINDOW:]
            self._changes = [*self._changes, mean - last_mean][-_WINDOW:]
            if self._distances:
                scores = np.mean(self._distances[-_WINDOW:], axis=0)
        self._last = (model, mean, matrix)
        here = ~self._removed
        if len(self._distances) >= _WINDOW and clusters(scores[here], self._random) > 1:
            labels = KMeans(2, n_init=10, random_state=0).fit_predict(scores[here][:, None])
            worse = int(scores[here][labels == 1].mean() > scores[here][labels == 0].mean())
            self._removed[np.flatnonzero(here)[labels == worse]] = True
            self._last, self._moves, self._changes, self._distances = None, [], [], []
            again = (self._start - model).astype(np.float32)
            return Decided(again, self._removed.copy(), scores)
        return Decided(decided.delta, decided.refused, scores)


def hessian_product(moves: list[Vector], changes: list[Vector], v: Vector) -> Vector:
    """Returns the L-BFGS Hessian of these moves and changes of the slope, times v.

    Byrd, Nocedal, Schnabel 1994, theorem 2.3, in the compact form the authors' code uses.
    """
    s, y = np.stack(moves, axis=1), np.stack(changes, axis=1)
    products = s.T @ y
    lower = np.tril(products, -1)
    sigma = float(y[:, -1] @ s[:, -1] / max(float(s[:, -1] @ s[:, -1]), 1e-12))
    middle = np.block([[sigma * s.T @ s, lower], [lower.T, -np.diag(np.diag(products))]])
    right = np.concatenate([sigma * (s.T @ v), y.T @ v])
    inner = np.linalg.lstsq(middle, right, rcond=None)[0]
    product: Vector = sigma * v - np.concatenate([sigma * s, y], axis=1) @ inner
    return product


def clusters(scores: Vector, random: np.random.Generator) -> int:
    """Returns how many clusters the gap statistic finds (Tibshirani, Walther, Hastie 2001)."""
    spread = float(np.ptp(scores))
    if spread <= 0:
        return 1
    values = (scores - scores.min()) / spread
    most = min(_CLUSTERS_MAX, len(values) - 1)
    found = np.array([_within(values, k) for k in range(1, most + 1)])
    references = np.array(
        [
            [_within(reference, k) for k in range(1, most + 1)]
            for reference in random.random((_REFERENCES, len(values)))
        ]
    )
    gaps = references.mean(axis=0) - found
    errors = references.std(axis=0) * np.sqrt(1 + 1 / _REFERENCES)
    for k in range(most - 1):
        if gaps[k] >= gaps[k + 1] - errors[k + 1]:
            return k + 1
    return most


def _within(values: Vector, k: int) -> float:
    """Returns the logarithm of the least sum of squares within k clusters of numbers.

    Clusters of numbers are intervals, so the best are found exactly (Wang, Song 2011).
    """
    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    squares = np.concatenate([[0.0], np.cumsum(ordered**2)])
    starts, ends = np.arange(len(values)), np.arange(1, len(values) + 1)
    counts = np.maximum(ends[None, :] - starts[:, None], 1)
    inside = (squares[ends][None, :] - squares[starts][:, None]) - (
        (sums[ends][None, :] - sums[starts][:, None]) ** 2 / counts
    )
    # Of numbers start to end; an empty interval is none.
    cost = np.where(ends[None, :] > starts[:, None], inside, np.inf)
    best = cost[0]
    for _ in range(k - 1):
        before = np.concatenate([[np.inf], best[:-1]])
        best = np.minimum(best, (before[:, None] + cost).min(axis=0))
    return float(np.log(max(best[-1], 1e-12)))
