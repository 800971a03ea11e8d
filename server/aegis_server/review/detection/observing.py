"""What a detector is shown of a round: each update's deviations now, and so far.

**Who is ordinary.** Deviations are from the others' median, but 30 % of attackers on one side pull
median and deviation so far that honest updates begin to look strange and attackers do not. So the
least suspicious 60 % are found first, twice, as in the concentration steps of the minimum
covariance determinant (Rousseeuw and van Driessen 1999), and only they are what all are held
against. Who is `barred`, for a finding that needs no statistics, is not among them: six copies of
one vector are not ordinary for being alike. A detector learns from rounds that went through the
same, so that this costs no honest update anything.

**So far.** One round under privacy noise says little; noise averages out, and an attacker persists.
The mean of a participant's deviations over the run, held against the others' means, is looked at
beside those of now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aegis_server.review.case import Past
from aegis_server.review.detection.measures import NAMES, relative, squeezed, suspicious
from aegis_server.review.deviations import Members, Vector, robust_z

#: Fewer updates than this do not tell what is usual.
UPDATES_MIN = 8
CORE = 0.6
_STEPS = 2
_SO_FAR_FLOOR = 0.15
SO_FAR = "so-far/"


@dataclass(frozen=True, slots=True)
class Observation:
    """n updates: `now` and `so_far` have shape (n, measures), `core` and `rounds` (n,).

    `core` are those the others are held against, `rounds` how many earlier ones are remembered.
    `centred` says that participants trained around a centre (`review.case.Local`). `evenness` is
    how many equal shares in a mean would be worth as much as theirs, over how many there are
    (Kish's effective sample size): 1 where all have as many rows.
    """

    now: Vector
    so_far: Vector
    core: Members
    rounds: Vector
    private: bool
    classes: int
    centred: bool = False
    evenness: float = 1.0

    def features(self) -> list[dict[str, float]]:
        """Returns each update's numbers by name, as they are remembered and trained on."""
        shared = {
            "round/updates": float(len(self.now)),
            "round/private": float(self.private),
            "round/classes": float(self.classes),
            "round/centred": float(self.centred),
            "round/evenness": self.evenness,
        }
        return [
            {
                **dict(zip(NAMES, self.now[i].tolist(), strict=True)),
                **{SO_FAR + name: float(v) for name, v in zip(NAMES, self.so_far[i], strict=True)},
                **shared,
                "round/core": float(self.core[i]),
                "round/remembered": float(self.rounds[i]),
            }
            for i in range(len(self.now))
        ]


def observe(
    measure: Callable[[Members], Mapping[str, Vector]],
    pasts: Sequence[Sequence[Past]],
    *,
    private: bool,
    classes: int,
    centred: bool = False,
    shares: Vector | None = None,
    barred: Members | None = None,
) -> Observation:
    """Returns what there is to see; `measure` returns the features, given who is a member.

    `shares` are those of a mean of all, shape (n,), adding up to 1; equal when not given.
    """
    n = len(pasts)
    before, rounds = _remembered(pasts)
    core = np.ones(n, bool)
    now, so_far = _seen(measure(core), before, rounds, core)
    for _ in range(_STEPS):
        core = _least_suspicious(now, so_far, np.zeros(n, bool) if barred is None else barred)
        now, so_far = _seen(measure(core), before, rounds, core)
    evenness = 1.0 if shares is None else 1 / float(n * (shares**2).sum())
    return Observation(now, so_far, core, rounds, private, classes, centred, evenness)


def _seen(
    features: Mapping[str, Vector], before: Vector, rounds: Vector, core: Members
) -> tuple[Vector, Vector]:
    now = relative(features, core)
    means = (before + now) / (rounds + 1)[:, None]
    return now, squeezed(robust_z(means, _SO_FAR_FLOOR, core))


def _least_suspicious(now: Vector, so_far: Vector, barred: Members) -> Members:
    if len(now) < UPDATES_MIN:
        return np.ones(len(now), bool)
    size = int(np.ceil(CORE * len(now)))
    squares = np.maximum(suspicious(np.stack([now, so_far])), 0.0) ** 2
    # The barred come last: they are needed only where there are not enough others.
    order = np.lexsort((squares.mean(axis=2).sum(axis=0), barred))
    core = np.zeros(len(now), bool)
    core[order[:size]] = True
    return core


def _remembered(pasts: Sequence[Sequence[Past]]) -> tuple[Vector, Vector]:
    """Returns the sums of earlier deviations, (n, measures), and over how many rounds, (n,)."""
    sums, rounds = np.zeros((len(pasts), len(NAMES))), np.zeros(len(pasts))
    for i, past in enumerate(pasts):
        for each in past:
            if all(name in each.features for name in NAMES):
                sums[i] += [each.features[name] for name in NAMES]
                rounds[i] += 1
    return sums, rounds
