"""Who knows the attackers: refuses them in every round, and nobody else.

No defence, but what the best one could come to: a model without the attackers' rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aegis_server.review.lab.gates import Off
from aegis_server.review.lab.simulating import Decided, Sent, liars_of
from aegis_server.review.lab.worlds import World


class Oracle:
    """As a gate of the lab, whose runs have the seed of their world."""

    def __init__(self, world: World, malicious: float) -> None:
        sites = len(world.sites.rows)
        self._liars, _ = liars_of(sites, malicious, world.seed)
        self._mean = Off()

    def decide(self, sent: Sent) -> Decided:
        """See `Gate`."""
        refused = np.isin(np.arange(len(sent.matrix)), self._liars)
        others = replace(
            sent,
            matrix=sent.matrix[~refused],
            rows=sent.rows[~refused],
            noise=sent.noise[~refused],
            names=tuple(np.array(sent.names)[~refused]),
        )
        return Decided(self._mean.decide(others).delta, refused, refused.astype(float))
