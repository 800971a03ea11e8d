"""Gaussian noise instead of an update.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent", NeurIPS 2017, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aegis_learning.parameters import Array
from aegis_server.review.lab.attacking import View


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Sends noise that is `factor` times as long as the honest update."""

    name: str = "gaussian"
    factor: float = 2.0

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        noise = view.random.standard_normal(view.honest.shape)
        lengths = np.linalg.norm(view.honest, axis=1) / np.linalg.norm(noise, axis=1)
        poison: Array = (self.factor * lengths[:, None] * noise).astype(np.float32)
        return poison
