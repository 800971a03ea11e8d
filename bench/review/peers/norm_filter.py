"""Refuses what is longer than twice the round's median length.

The filter that every overview starts with; Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor
Federated Learning?", 2019, clip at a norm instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aegis_server.review.lab.simulating import Decided, Sent
from peers.kept import keep


@dataclass(frozen=True, slots=True)
class NormFilter:
    """`longest` times the median length is the limit."""

    longest: float = 2.0

    def decide(self, sent: Sent) -> Decided:
        """See `Gate`."""
        norms = np.linalg.norm(sent.matrix.astype(np.float64), axis=1)
        ratios = norms / max(float(np.median(norms)), 1e-12)
        return keep(sent, ratios > self.longest, ratios)
