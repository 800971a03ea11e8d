"""FLAME: cluster by direction, clip to the median length, add noise.

Nguyen, Rieger, Chen et al., "FLAME: Taming Backdoors in Federated Learning", USENIX Security 2022,
algorithm 1: HDBSCAN over cosine distances between the sites' models with a smallest cluster of more
than half of the sites; everything outside of it is left out. The rest is clipped to the median
length of all updates and averaged, and noise of lambda times that length is added, lambda 0.001.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from sklearn.cluster import HDBSCAN

from aegis_learning.parameters import flatten
from aegis_server.review.lab.simulating import Decided, Sent
from aegis_server.review.lab.worlds import World

_LAMBDA = 0.001


@dataclass(slots=True)
class Flame:
    """Noise is drawn by the world's seed."""

    world: World
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng([self.world.seed, 0x666C])

    def decide(self, sent: Sent) -> Decided:
        """See `Gate`."""
        matrix = sent.matrix.astype(np.float64)
        models = matrix + flatten(sent.base)
        models /= np.maximum(np.linalg.norm(models, axis=1), 1e-12)[:, None]
        distances = np.clip(1 - models @ models.T, 0, 2)
        np.fill_diagonal(distances, 0)
        clusters = HDBSCAN(
            min_cluster_size=len(matrix) // 2 + 1,
            min_samples=1,
            metric="precomputed",
            allow_single_cluster=True,
            copy=True,
        ).fit(distances)
        refused = clusters.labels_ < 0
        if refused.all():
            refused[:] = False
        lengths = np.linalg.norm(matrix, axis=1)
        bound = float(np.median(lengths))
        clipped = matrix * np.minimum(1, bound / np.maximum(lengths, 1e-12))[:, None]
        noise = _LAMBDA * bound * self._random.standard_normal(matrix.shape[1])
        delta = (clipped[~refused].mean(axis=0) + noise).astype(np.float32)
        return Decided(delta, refused, np.median(distances, axis=1))
