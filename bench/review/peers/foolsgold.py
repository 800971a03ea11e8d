"""FoolsGold: sybils resemble each other more than honest sites do.

Fung, Yoon, Beschastnikh, "The Limitations of Federated Learning in Sybil Settings", RAID 2020,
algorithm 1: cosines between the sums of what each site ever sent, pardoning, and a logit with
confidence 1. Without its optional weights of features.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aegis_server.review.lab.simulating import Decided, Sent

_CONFIDENCE = 1.0
# A site with less than half of the largest weight counts as refused in the tables.
_REFUSED_BELOW = 0.5


@dataclass(slots=True)
class FoolsGold:
    """Remembers the sum of each site's updates."""

    _sums: NDArray[np.float64] | None = field(default=None, init=False)

    def decide(self, sent: Sent) -> Decided:
        """See `Gate`."""
        matrix = sent.matrix.astype(np.float64)
        self._sums = matrix if self._sums is None else self._sums + matrix
        weights = _weights(self._sums)
        total = float(weights.sum())
        shares = weights / total if total > 0 else np.full(len(weights), 1 / len(weights))
        delta = (shares @ matrix).astype(np.float32)
        return Decided(delta, weights < _REFUSED_BELOW, 1 - weights)


def _weights(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    directions = sums / np.maximum(np.linalg.norm(sums, axis=1), 1e-12)[:, None]
    cosines = directions @ directions.T
    np.fill_diagonal(cosines, -np.inf)
    most = cosines.max(axis=1)
    # Pardoning: who is like somebody that is even more like another is forgiven in proportion.
    ratio = most[:, None] / np.where(most == 0, 1e-12, most)[None, :]
    cosines = np.where(most[:, None] < most[None, :], cosines * ratio, cosines)
    weights = np.clip(1 - cosines.max(axis=1), 0, 1)
    weights = np.clip(weights / max(float(weights.max()), 1e-12), 1e-6, 0.99)
    logit: NDArray[np.float64] = _CONFIDENCE * (np.log(weights / (1 - weights)) + 0.5)
    return np.clip(logit, 0, 1)
