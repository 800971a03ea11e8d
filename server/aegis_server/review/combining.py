"""One rule from findings to verdicts.

**Score.** The largest of: what the detector says (1 is its rate of false positives), and the
strength of the strongest finding that may reject alone. Where the detector is silent, below eight
updates, two examiners that are at three quarters each are enough: (g + o) / 1.5, with g the
strongest finding about what an update does and o about what it looks like. 1 is where rejection
begins.

**Quorum.** An update is rejected only by its peers: at least two of the round's updates, and at
least half of them, have to score below 1. Otherwise nobody can tell who the odd one is - with two
updates each is the other's outlier, and when most of a round looks poisoned it may be the base
model or an examiner that is wrong - and what would have been rejected is HELD for a person
instead. HELD is not aggregated, so this is never the lenient way out; but a site is not convicted
by a broken measure either.

**Fallback.** A run that can train on nothing, round after round, never recovers: its model stays
where honest updates look strange. So when there is no quorum, the least suspicious three fifths
are named, if their coordinate-wise median leaves the golden rows no worse than an honest round
does; fewer than half of them being poisoned, each of its numbers is within the honest ones'.

**Examiners that fail** hold the updates they could not examine, whatever the others say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aegis_learning.aggregation import ranks
from aegis_learning.aggregation.updates import Updates
from aegis_server.review import kinds, missed, opinions
from aegis_server.review.case import Judgement, Ruling, Verdict
from aegis_server.review.detection.detector import Suspicion
from aegis_server.review.detection.observing import CORE, UPDATES_MIN, Observation
from aegis_server.review.examiners import fingerprint, golden_set, harm, labels
from aegis_server.review.examining import Examined
from aegis_server.review.findings import Finding
from aegis_server.review.population import Population

_AGREEMENT = 1.5
_PEERS_MIN = 2
_FALLBACK_MIN = 3
_EFFECTS = frozenset({golden_set.NAME, fingerprint.NAME, labels.NAME})


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a round is judged by; the population's members are its core."""

    population: Population
    examined: Examined
    seen: Observation
    suspicion: Suspicion
    shadow: Suspicion | None


def rule(evidence: Evidence, *, warming_up: bool, detector: str, shadow: str = "") -> Ruling:
    """Returns the ruling."""
    n = len(evidence.population)
    findings = [
        ordered(
            evidence.examined.failed.get(i, ()),
            evidence.examined.findings[i],
            opinions.of(evidence.suspicion, evidence.seen, i) if n >= UPDATES_MIN else (),
        )
        for i in range(n)
    ]
    scores = [score(found, alone=n >= UPDATES_MIN) for found in findings]
    if n >= UPDATES_MIN and quorum(scores) and not evidence.examined.failed:
        findings = [ordered(f) for f in missed.reinstated(evidence.population, findings)]
        scores = [score(found, alone=True) for found in findings]
    decided = [
        Verdict.HELD if i in evidence.examined.failed else verdict
        for i, verdict in enumerate(verdicts(scores))
    ]
    members, why = _fallback(evidence.population, scores)
    features = labels.remember(evidence.seen.features(), evidence.examined)
    ids = [each.update_id for each in evidence.population.case.submissions]
    return Ruling(
        judgements=tuple(
            Judgement(
                update_id=ids[i],
                verdict=decided[i],
                score=scores[i],
                findings=(
                    findings[i]
                    if decided[i] is Verdict.ACCEPTED
                    else (*findings[i], *kinds.looks_like(findings[i], features[i]))
                ),
                false_positive_rate=float(evidence.suspicion.rates[i]),
                would_change=would_change(findings[i], decided[i], no_quorum=bool(why)),
                features=features[i],
                sketch=evidence.population.sketches[i],
                # As of the champion: what its rate is, before the company counts.
                shadow_score=None if evidence.shadow is None else float(evidence.shadow.alone[i]),
            )
            for i in range(n)
        ),
        fallback=bool(members),
        members=tuple(ids[i] for i in members),
        why=why,
        warming_up=warming_up,
        detector=detector,
        shadow=shadow,
    )


def score(findings: Sequence[Finding], *, alone: bool) -> float:
    """Returns the score findings add up to.

    With `alone` only a finding that may reject by itself counts; the detector has weighed the
    others together.
    """
    effect = strongest([found for found in findings if found.examiner in _EFFECTS])
    form = strongest([found for found in findings if found.examiner not in _EFFECTS])
    together = 0.0 if alone else (effect + form) / _AGREEMENT
    return max(effect, form, together)


def strongest(findings: Sequence[Finding]) -> float:
    """Returns the strength of the strongest finding."""
    return max((finding.strength for finding in findings), default=0.0)


def verdicts(scores: Sequence[float]) -> list[Verdict]:
    """Returns the verdict for each score of a round."""
    against = Verdict.REJECTED if quorum(scores) else Verdict.HELD
    return [Verdict.ACCEPTED if value < 1 else against for value in scores]


def quorum(scores: Sequence[float]) -> bool:
    """Returns whether enough of a round is ordinary to reject the rest."""
    ordinary = sum(value < 1 for value in scores)
    return ordinary >= _PEERS_MIN and 2 * ordinary >= len(scores)


def ordered(*groups: Sequence[Finding]) -> tuple[Finding, ...]:
    """Returns all findings, strongest first."""
    findings = [finding for group in groups for finding in group]
    return tuple(sorted(findings, key=lambda finding: -finding.strength))


def would_change(
    findings: Sequence[Finding], verdict: Verdict, *, no_quorum: bool
) -> tuple[str, ...]:
    """Returns what would have changed the verdict, a sentence each."""
    if any(found.measure == missed.MEASURE for found in findings):
        return ("Were it not missed on the golden rows, it would not have been accepted.",)
    if verdict is Verdict.ACCEPTED:
        return tuple(
            f"It would not have been accepted with {_name(found)} at {found.threshold:.3g}"
            f" or beyond; it was {found.value:.3g}."
            for found in findings[:1]
            if found.strength >= 0.5
        )
    against = [found for found in findings if found.strength >= 1]
    sentences = [
        f"{_name(found)} would have to be {'below' if found.value >= found.threshold else 'above'}"
        f" {found.threshold:.3g}; it is {found.value:.3g}."
        for found in against
    ]
    if any(found.measure == "failed" for found in findings):
        sentences.append("The examiner that failed would have to examine it.")
    if no_quorum:
        sentences.append("With more ordinary updates in the round it would have been rejected.")
    return tuple(sentences)


def _name(found: Finding) -> str:
    return f"{found.examiner}/{found.measure}"


def _fallback(population: Population, scores: Sequence[float]) -> tuple[list[int], str]:
    """Returns who may be aggregated robustly when there is no quorum, and why there is none."""
    if quorum(scores) or all(value < 1 for value in scores):
        return [], ""
    odd = sum(value >= 1 for value in scores)
    why = f"{odd} of {len(scores)} updates look odd, so nobody can tell who the odd ones are"
    least = sorted(range(len(scores)), key=lambda i: scores[i])
    members = sorted(least[: math.ceil(CORE * len(scores))])
    if len(members) < _FALLBACK_MIN:
        return [], f"{why}; there are too few for a robust aggregate"
    middle = Updates.of([population.matrix[i] for i in members])
    median = ranks.means(middle, (len(members) - 1) // 2, len(members) // 2)
    before = golden_set.quality_at(population, None).loss
    rise = golden_set.quality_at(population, median).loss - before
    if rise >= harm.ROUND_LOSS:
        return [], f"{why}; even the median of the least suspicious harms the model"
    return members, f"{why}; the median of the least suspicious {len(members)} may be used"
