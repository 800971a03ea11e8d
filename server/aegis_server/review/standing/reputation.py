"""Reputation: what a participant's judged updates say about its next one.

The beta reputation of Jøsang and Ismail (2002) with forgetting: after updates 1 … n,

    reputation = (1 + G) / (2 + G + B),   G = Σ g_i λ^(n-i),   B = Σ b_i λ^(n-i),   λ = 0.9

so that who is new has 0.5, nobody ever has 0 or 1, and an update weighs half as much seven updates
later. What an update says, by how it stands:

    accepted by the examiners with score s     g = 1 - s/2 (at s = 1 it was nearly rejected)
    rejected by the examiners with score s     b = s, at least 1 and at most 2
    accepted by a person                       g = 1
    rejected by a person                       b = 2
    held, or decided by a deadline             nothing: nobody has looked

A lower score never costs reputation, and a worse verdict never earns any.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from aegis_server.review.case import Verdict

NEW = 0.5
_KEPT = 0.9
_SCORE_MAX = 2.0


class Decider(StrEnum):
    """Whose the verdict is that stands."""

    EXAMINERS = "examiners"
    PERSON = "person"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One judged update: the verdict that stands, whose it is, and what the examiners scored."""

    verdict: Verdict
    score: float
    decider: Decider = Decider.EXAMINERS


def weights(evidence: Evidence) -> tuple[float, float]:
    """Returns how much speaks for the participant and how much against it, each 0 to 2."""
    score = min(max(evidence.score, 0.0), _SCORE_MAX)
    if evidence.verdict is Verdict.ACCEPTED:
        if evidence.decider is Decider.PERSON:
            return 1.0, 0.0
        if evidence.decider is Decider.EXAMINERS:
            return 1.0 - min(score, 1.0) / 2, 0.0
    if evidence.verdict is Verdict.REJECTED:
        if evidence.decider is Decider.PERSON:
            return 0.0, _SCORE_MAX
        if evidence.decider is Decider.EXAMINERS:
            return 0.0, max(score, 1.0)
    return 0.0, 0.0


def course(evidence: Iterable[Evidence]) -> Iterator[float]:
    """Yields the reputation after each update, oldest first."""
    good = bad = 0.0
    for each in evidence:
        for_it, against_it = weights(each)
        good, bad = _KEPT * good + for_it, _KEPT * bad + against_it
        yield (1 + good) / (2 + good + bad)


def reputation(evidence: Iterable[Evidence]) -> float:
    """Returns the reputation after all of it, oldest first; 0.5 without any."""
    return [NEW, *course(evidence)][-1]
