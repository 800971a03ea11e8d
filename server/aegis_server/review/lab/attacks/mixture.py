"""A stealthy mixture: two attacks that hide, every other round.

Half of the attackers push the mean within the spread of the honest (`alie`), which widens what
looks ordinary; the others teach a backdoor without a boost. In the rounds between all are honest:
against a memory that judges sites by their past.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aegis_learning.parameters import Array
from aegis_server.review.lab.attacking import View
from aegis_server.review.lab.attacks.alie import ALittleIsEnough
from aegis_server.review.lab.attacks.backdoor import Backdoor


@dataclass(frozen=True, slots=True)
class Mixture:
    """Attacks in rounds 1, 3, 5 …"""

    name: str = "mixture"

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        if view.round % 2 == 0:
            return view.honest
        half = len(view) // 2
        hidden = Backdoor(boosted=False).poison(view.part(slice(half, None)))
        if half == 0:
            return hidden
        shifted = ALittleIsEnough().poison(view.part(slice(0, half)))
        return np.concatenate([shifted, hidden])
