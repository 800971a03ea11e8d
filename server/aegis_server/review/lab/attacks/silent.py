"""Silent: honest training without the promised noise.

It does the model good and its own patients harm: the site's rows are no longer protected, and the
ledger says that they are. Without privacy there is nothing to leave out.
"""

from __future__ import annotations

from dataclasses import dataclass

from aegis_learning.parameters import Array
from aegis_server.review.lab.attacking import View


@dataclass(frozen=True, slots=True)
class Silent:
    """Trains on its rows and adds no noise."""

    name: str = "silent"

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        if not view.plan.noise_multiplier:
            return view.honest
        return view.train(view.sites, noise=False)
