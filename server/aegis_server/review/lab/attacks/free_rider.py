"""Free rider: no training, no rows, but a share of the model.

Lin, Du, Liu, "Free-riders in Federated Learning: Attacks and Defenses", 2019, section 3.2 ("delta
weights"), disguised with noise as in Fraboni, Vidal, Lorenzi, "Free-rider Attacks on Model
Aggregation in Federated Learning", AISTATS 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aegis_learning.parameters import Array
from aegis_server.review.lab.attacking import View

_FIRST = 1e-3


@dataclass(frozen=True, slots=True)
class FreeRider:
    """Sends what the last round changed, with noise: `disguise` of its size, or what it promised.

    In the first round there is nothing to send back: next to nothing is sent.
    """

    name: str = "free-rider"
    disguise: float = 0.1

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        known = np.zeros(view.honest.shape[1]) if view.previous is None else view.previous
        size = float(np.sqrt(np.mean(known.astype(np.float64) ** 2))) or _FIRST
        deviation = np.maximum(view.plan.noise(view.sites.rows), self.disguise * size)
        noise = deviation[:, None] * view.random.standard_normal(view.honest.shape)
        return (known + noise).astype(np.float32)
