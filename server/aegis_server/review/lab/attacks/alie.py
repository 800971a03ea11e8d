"""A little is enough: within the spread of the honest, so that robust rules keep it.

Baruch, Baruch, Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed Learning",
NeurIPS 2019, algorithm 3, with the z = 1.5 of its experiments.
"""

from __future__ import annotations

from dataclasses import dataclass

from aegis_learning.parameters import Array
from aegis_server.review.lab.attacking import View


@dataclass(frozen=True, slots=True)
class ALittleIsEnough:
    """Sends the mean less z deviations in every number, each attacker with its own deviation."""

    name: str = "alie"
    z: float = 1.5

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        centre: Array = view.honest.mean(axis=0) - self.z * view.honest.std(axis=0)
        poison: Array = centre + view.deviations
        return poison
