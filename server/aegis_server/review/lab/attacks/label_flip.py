"""Label flip: honest training on wrong labels.

Fang, Cao, Jia, Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning", USENIX
Security 2020, section 4: label l becomes L - 1 - l.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from aegis_learning.parameters import Array
from aegis_server.review.lab.attacking import View


@dataclass(frozen=True, slots=True)
class LabelFlip:
    """Trains on flipped labels."""

    name: str = "label-flip"

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        return view.train(replace(view.sites, y=view.family.classes - 1 - view.sites.y))
