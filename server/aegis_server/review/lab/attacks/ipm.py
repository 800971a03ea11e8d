"""Inner product manipulation: the next model moves against the gradient.

Xie, Koyejo, Gupta, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
Manipulation", UAI 2019, section 4: all send -epsilon times the mean of the honest. A small epsilon
hides among them, a large one turns the mean around.
"""

from __future__ import annotations

from dataclasses import dataclass

from aegis_learning.parameters import Array
from aegis_server.review.lab.attacking import View


@dataclass(frozen=True, slots=True)
class InnerProduct:
    """Sends minus `factor` times the mean, each attacker with its own deviation."""

    name: str = "ipm-0.5"
    factor: float = 0.5

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        poison: Array = -self.factor * view.honest.mean(axis=0) + view.deviations
        return poison
