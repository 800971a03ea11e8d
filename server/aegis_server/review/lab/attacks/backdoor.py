"""Backdoors: rows with a trigger get the attacker's answer, all others the right one.

Trigger and poisoned rows as in Gu, Dolan-Gavitt, Garg, "BadNets", 2017. Boosted, it is model
replacement: Bagdasaryan, Veit, Hua, Estrin, Shmatikov, "How To Backdoor Federated Learning",
AISTATS 2020, equation 3: scaled by sites over attackers, what the attackers trained becomes the
next model. Not boosted it hides: nothing about its length is unusual, and most of its direction is
honest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from aegis_learning.parameters import Array
from aegis_server.review.lab.attacking import View
from aegis_server.review.lab.sites import Sites
from aegis_server.review.lab.worlds import Trigger


@dataclass(frozen=True, slots=True)
class Backdoor:
    """Trains on rows of which `share` have the trigger and its target as label."""

    name: str = "backdoor"
    boosted: bool = True
    share: float = 0.5

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        taught = view.train(triggered(view.sites, view.trigger, self.share, view.random))
        return np.float32(view.total / len(view)) * taught if self.boosted else taught


def triggered(sites: Sites, trigger: Trigger, share: float, random: np.random.Generator) -> Sites:
    """Returns the sites' rows, `share` of them with the trigger and labelled as its target."""
    marked = random.random(sites.y.shape) < share
    flat = trigger.on(sites.x.reshape(-1, sites.x.shape[2])).reshape(sites.x.shape)
    x = np.where(marked[:, :, None], flat, sites.x)
    return replace(sites, x=x, y=np.where(marked, trigger.target, sites.y))
