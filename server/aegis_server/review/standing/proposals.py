"""Who is proposed for quarantine, and why: a rule on plain values, decided by a person.

For its reputation: what was judged since the last decision about it, at least three updates that
say something, adds up to less than 0.25. For its company: it keeps company with others, see
`collusion`, and did so in at least three rounds since. What was known when a person refused or
lifted a quarantine is not held against the participant again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aegis_server.review.case import Verdict
from aegis_server.review.standing.collusion import TIMES_MIN
from aegis_server.review.standing.reputation import Evidence, reputation, weights

Cause = Literal["reputation", "collusion"]

REPUTATION_MIN = 0.25
_JUDGED_MIN = 3
_UPDATES_MAX = 20
_NAMES_MAX = 5


@dataclass(frozen=True, slots=True)
class Known:
    """One update of a participant since the last decision about it."""

    update_id: str
    evidence: Evidence
    alike: frozenset[str]


@dataclass(frozen=True, slots=True)
class Proposal:
    """Why somebody should be left out of rounds, and the updates it rests on."""

    cause: Cause
    reason: str
    update_ids: tuple[str, ...]


def proposal(known: Sequence[Known], company: frozenset[str]) -> Proposal | None:
    """Returns what to propose about a participant, given its updates, oldest first."""
    together = [each for each in known if each.alike & company]
    if len(together) >= TIMES_MIN:
        return Proposal(
            "collusion",
            f"in {len(together)} rounds its updates were suspiciously like those of"
            f" {_names(company)}",
            tuple(each.update_id for each in together[-_UPDATES_MAX:]),
        )
    telling = [each for each in known if any(weights(each.evidence))]
    value = reputation(each.evidence for each in known)
    if len(telling) < _JUDGED_MIN or value >= REPUTATION_MIN:
        return None
    rejected = [each for each in known if each.evidence.verdict is Verdict.REJECTED]
    return Proposal(
        "reputation",
        f"{len(rejected)} of its {len(telling)} judged updates were rejected: its reputation is"
        f" {value:.2f}, below {REPUTATION_MIN}",
        tuple(each.update_id for each in rejected[-_UPDATES_MAX:]),
    )


def _names(company: frozenset[str]) -> str:
    names = sorted(company)
    more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
    return ", ".join(names[:_NAMES_MAX]) + more
