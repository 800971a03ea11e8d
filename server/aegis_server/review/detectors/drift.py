"""Whether a champion counts out honest updates more often than it was made for.

Attackers are counted out rightly, and must not be able to have a good detector taken back by
sending bad updates. So two counts are looked at: updates a person accepted against the detector,
which are mistakes for sure, and updates of participants in good standing, which are all but the
third that was counted out most and those who are, or are to be, in quarantine. Leaving out the
third makes the second count too small rather than too large: what it finds is there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from aegis_server.review.detectors.store import Scored

SCORED_MIN = 50
# Chance that a detector which is as it should be is taken back at one look.
_CHANCE = 0.001
_WORST_SHARE = 1 / 3


@dataclass(frozen=True, slots=True)
class Drift:
    """So many of so many were counted out wrongly, where the target is a share of them."""

    wrong: int
    scored: int
    target: float
    how: str

    def __str__(self) -> str:
        share = self.wrong / self.scored
        return (
            f"{self.wrong} of {self.scored} updates {self.how}: {share:.1%},"
            f" where {self.target:.1%} was meant"
        )


def drift(scored: Sequence[Scored], target: float, suspects: Collection[str] = ()) -> Drift | None:
    """Returns what speaks against the champion; None while nothing does, or too little is known.

    `target` is the false-positive rate it is known to have, `suspects` are those who are, or are to
    be, in quarantine.
    """
    if len(scored) < SCORED_MIN:
        return None
    good = in_good_standing(scored, suspects)
    for wrong, of, how in (
        (
            sum(each.overridden for each in scored),
            len(scored),
            "were counted out and then accepted by a person",
        ),
        (
            sum(each.rejected for each in good),
            len(good),
            "of participants in good standing were counted out",
        ),
    ):
        if of >= SCORED_MIN and at_least(wrong, of, target) < _CHANCE:
            return Drift(wrong, of, target, how)
    return None


def in_good_standing(scored: Sequence[Scored], suspects: Collection[str] = ()) -> list[Scored]:
    """Returns the updates of all but the suspects and the third that was counted out most."""
    by: dict[str, list[Scored]] = defaultdict(list)
    for each in scored:
        by[each.participant].append(each)
    names = sorted(
        by.keys() - set(suspects),
        key=lambda name: (sum(each.rejected for each in by[name]) / len(by[name]), name),
    )
    kept = names[: len(names) - math.ceil(_WORST_SHARE * len(names))]
    return [each for name in kept for each in by[name]]


def at_least(k: int, n: int, p: float) -> float:
    """Returns the chance of k successes or more in n trials of chance p (0 < p < 1)."""
    if k <= 0:
        return 1.0
    logs = (
        math.lgamma(n + 1)
        - math.lgamma(i + 1)
        - math.lgamma(n - i + 1)
        + i * math.log(p)
        + (n - i) * math.log1p(-p)
        for i in range(k, n + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))
