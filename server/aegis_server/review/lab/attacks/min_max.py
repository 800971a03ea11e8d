"""Min-max: as far from the mean as hides between the honest.

Shejwalkar, Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses
for Federated Learning", NDSS 2021, section IV-C: mean + gamma times a perturbation, with the
largest gamma for which no honest update is farther away than the two most distant ones are from
each other. The perturbation is the inverse deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aegis_learning.parameters import Array
from aegis_server.review.lab.attacking import View

_HALVINGS = 30
_GAMMA_MAX = 100.0


@dataclass(frozen=True, slots=True)
class MinMax:
    """Sends the farthest vector that hides; `jitter` of its own deviation keeps attackers apart."""

    name: str = "min-max"
    jitter: float = 0.5

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        honest = view.honest.astype(np.float64)
        centres = honest.mean(axis=0) + self.jitter * view.deviations
        away = -honest.std(axis=0)
        widest = farthest(honest, honest)
        low, high = 0.0, _GAMMA_MAX
        for _ in range(_HALVINGS):
            gamma = (low + high) / 2
            if farthest(centres + gamma * away, honest) <= widest:
                low = gamma
            else:
                high = gamma
        poison: Array = (centres + low * away).astype(np.float32)
        return poison


def farthest(these: np.ndarray, those: np.ndarray) -> float:
    """Returns the largest distance of one of these vectors from one of those."""
    squares = (these**2).sum(axis=1)[:, None] + (those**2).sum(axis=1) - 2 * these @ those.T
    return float(np.sqrt(max(squares.max(), 0.0)))
