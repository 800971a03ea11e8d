"""What honest updates look like: seven views of an update, and how rare each is.

Views are taken of an update's deviations now, and of those so far: an isolation forest over all
measures; the three rarest among those about its effect, those about its form, and all; the rarest
about its past; and the mean deviation toward harm of its direction and of its effect. Each is held
against the same view of the round's core once more, so that a round whose honest updates differ
much makes nobody an outlier, and then against honest updates of many rounds: how rare is that? The
rarest view counts.

Rounds are told apart by what changes the numbers of honest updates: privacy noise or none, with it
a centre to train around or none, two classes or more, whether all sites have as many rows, and how
many updates there are. Centred rounds are those of the plan that learns most from an epsilon: a
step over all rows of a site, which draws nothing by chance, so that a site is odd in the same way
in every round. Sites that differ in rows mostly differ in what is in them; and how many rows each
has is known from its enrolment, so nobody chooses by an update what it is held against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aegis_server.review.detection.forest import Forest
from aegis_server.review.detection.measures import Kind, of_kind, suspicious, toward_harm
from aegis_server.review.detection.observing import Observation
from aegis_server.review.detection.tails import Table
from aegis_server.review.deviations import Vector

#: Rounds that have to be remembered before the past counts.
ROUNDS_MIN = 2
#: From this evenness of the shares on, sites count as having as many rows as each other.
EVEN = 0.98
SIZES = (15,)
VIEWS = ("forest", "effect", "form", "all", "past", "heading", "harm")
_TOP = 3
_TOPS = (of_kind(Kind.EFFECT), of_kind(Kind.FORM), of_kind(*Kind))
_PAST = of_kind(Kind.PAST)
# Deviations of a view among honest updates; a core of three may have none by chance.
_SPREADS = np.array([0.03, 1.5, 1.5, 1.5, 1.0, 0.5, 0.5])
_MAD_TO_SIGMA = 1.4826
# What of the false positives each view may cause, as nats off its rarity. What odd forms show is
# rarer than rare; what is subtle shows in the means, and most of all over many rounds.
_NOW = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5])
_SO_FAR = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0])


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What honest updates look like, now or so far: each measure, and all together."""

    tails: Table
    forest: Forest

    def views(self, observation: Observation, deviations: Vector) -> Vector:
        """Returns the views of each update beside the core's, shape (n, views)."""
        surprise = self.tails.surprise(suspicious(deviations))
        views = np.stack(
            [
                self.forest.score(deviations),
                *(np.sort(surprise[:, top], axis=1)[:, -_TOP:].sum(axis=1) for top in _TOPS),
                surprise[:, _PAST].max(axis=1),
                *toward_harm(deviations).T,
            ],
            axis=1,
        )
        core = views[observation.core]
        middle = np.median(core, axis=0)
        spread = _MAD_TO_SIGMA * np.median(np.abs(core - middle), axis=0)
        beside: Vector = (views - middle) / np.sqrt((spread**2 + _SPREADS**2) / 2)
        return beside


@dataclass(frozen=True, slots=True)
class Calibration:
    """How high views are among honest updates, and how high the highest of them."""

    now: Table
    so_far: Table
    total: Table


@dataclass(frozen=True, slots=True)
class Regime:
    """Rounds of one kind, as `regime_name` tells them apart."""

    now: Knowledge
    so_far: Knowledge
    sizes: Mapping[int, Calibration]

    def calibration(self, updates: int) -> Calibration:
        """Returns the one of rounds of about so many updates."""
        size = size_of(updates)
        return self.sizes[min(self.sizes, key=lambda known: (abs(known - size), known))]


def surprises(regime: Regime, known: Calibration, observation: Observation) -> Vector:
    """Returns how rare each view of each update is, less what it is allowed: (n, 2 * views)."""
    now = known.now.surprise(regime.now.views(observation, observation.now)) - _NOW
    so_far = known.so_far.surprise(regime.so_far.views(observation, observation.so_far)) - _SO_FAR
    so_far[observation.rounds < ROUNDS_MIN] = 0.0
    return np.concatenate([now, so_far], axis=1)


def size_of(updates: int) -> int:
    """Returns the number of the class of sizes."""
    return sum(updates >= size for size in SIZES)


def regime_name(
    *, private: bool, classes: int, centred: bool = False, evenness: float = 1.0
) -> str:
    """Returns e.g. `private-many-uneven`; rounds without noise are not told apart by a centre."""
    kind = ("centred" if centred else "private") if private else "open"
    name = f"{kind}-{'two' if classes == 2 else 'many'}"
    return name if evenness >= EVEN else f"{name}-uneven"
