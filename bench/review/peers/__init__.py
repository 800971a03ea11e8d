"""Published defences, written for the bench as gates of the lab's simulator.

Each as its paper defines it, with the paper's numbers where it gives some. Those that have to be
told how many attack are told the truth, which nobody knows in practice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from aegis_learning.parameters import Array
from aegis_server.review.lab.gates import gate
from aegis_server.review.lab.simulating import Decided, Gate, Sent
from aegis_server.review.lab.worlds import World
from peers.dnc import DivideAndConquer
from peers.flame import Flame
from peers.fldetector import FLDetector
from peers.fltrust import Trust
from peers.foolsgold import FoolsGold
from peers.norm_filter import NormFilter
from peers.oracle import Oracle

# What a column of the tables is called, and which gate of the lab it is.
OURS = {"review": "on", "review+fltrust": "robust", "mean": "off"}
PEERS = ("fltrust", "flame", "dnc", "foolsgold", "fldetector", "norm-filter")
# The oracle is no defence, but what is to be had without the attackers.
NAMES = (*OURS, *PEERS, "oracle")


def make(name: str, world: World, malicious: float) -> Gate:
    """Returns a fresh gate of that name; `malicious` is the share of sites that attack."""
    if name in OURS:
        return gate(OURS[name], world)
    peer = _peer(name, world, malicious)
    return Moving(peer, world.momentum) if world.momentum else peer


@dataclass(slots=True)
class Moving:
    """A gate that knows no momentum, with that of the plan after it."""

    gate: Gate
    momentum: float
    _velocity: Array | float = 0.0

    def decide(self, sent: Sent) -> Decided:
        """See `Gate`."""
        decided = self.gate.decide(sent)
        self._velocity = (self.momentum * self._velocity + decided.delta).astype(np.float32)
        return replace(decided, delta=self._velocity)


def _peer(name: str, world: World, malicious: float) -> Gate:
    count = round(malicious * len(world.sites.rows))
    match name:
        case "fltrust":
            return Trust(world)
        case "flame":
            return Flame(world)
        case "dnc":
            return DivideAndConquer(world, count)
        case "foolsgold":
            return FoolsGold()
        case "fldetector":
            return FLDetector(world)
        case "norm-filter":
            return NormFilter()
        case "oracle":
            return Oracle(world, malicious)
    raise KeyError(name)
