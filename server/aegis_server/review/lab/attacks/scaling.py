"""Scaling: the honest update, too long, so that one site's rows decide alone.

The boost of model replacement (Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How To Backdoor
Federated Learning", AISTATS 2020, section 4.2) without a backdoor.
"""

from __future__ import annotations

from dataclasses import dataclass

from aegis_learning.parameters import Array
from aegis_server.review.lab.attacking import View


@dataclass(frozen=True, slots=True)
class Scaling:
    """Sends `factor` times the honest update."""

    name: str = "scaling"
    factor: float = 10.0

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        return self.factor * view.honest
