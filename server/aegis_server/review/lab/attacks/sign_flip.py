"""Sign flip: the honest update, backward.

Li, Xu, Chen, Giannakis, Ling, "RSA: Byzantine-Robust Stochastic Aggregation Methods", AAAI 2019,
section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from aegis_learning.parameters import Array
from aegis_server.review.lab.attacking import View


@dataclass(frozen=True, slots=True)
class SignFlip:
    """Sends minus `factor` times the honest update."""

    name: str = "sign-flip"
    factor: float = 1.0

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        return -self.factor * view.honest
