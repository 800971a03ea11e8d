"""Divide and Conquer: outliers along the direction in which updates differ most.

Shejwalkar, Houmansadr, "Manipulating the Byzantine", NDSS 2021, algorithm 2: in random subsets of
the coordinates, the squared projections on the first right singular vector of the centred updates;
the c * m largest are left out, and what survives in every iteration is averaged. c = 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from aegis_server.review.lab.simulating import Decided, Sent
from aegis_server.review.lab.worlds import World
from peers.kept import keep

_ITERATIONS = 5


@dataclass(slots=True)
class DivideAndConquer:
    """`malicious` is m, how many attack. Subsets are half of the coordinates: models are small."""

    world: World
    malicious: int
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng([self.world.seed, 0x646E63])

    def decide(self, sent: Sent) -> Decided:
        """See `Gate`."""
        matrix = sent.matrix.astype(np.float64)
        n, d = matrix.shape
        refused, worst = np.zeros(n, bool), np.zeros(n)
        for _ in range(_ITERATIONS):
            part = matrix[:, self._random.choice(d, max(1, d // 2), replace=False)]
            centred = part - part.mean(axis=0)
            # The first right singular vector by way of the small Gram matrix.
            values, vectors = np.linalg.eigh(centred @ centred.T)
            scores = values[-1] * vectors[:, -1] ** 2
            refused[np.argsort(-scores, kind="stable")[: self.malicious]] = True
            worst = np.maximum(worst, scores / max(float(scores.sum()), 1e-12))
        return keep(sent, refused, worst)
