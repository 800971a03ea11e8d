"""The verdict: what the examiners found about each update of a round, combined by one rule.

**Score.** Each examiner's opinion g (golden set) and o (outlier) is the strength of its strongest
finding. The score is max(g, o, (g + o) / 1.5): one examiner is convinced, or both are at three
quarters. 1 is where rejection begins.

**Quorum.** An update is rejected only by its peers: at least two of the round's updates, and at
least half of them, have to score below 1. Otherwise nobody can tell who the odd one is - with two
updates each is the other's outlier, and when most of a round looks poisoned it may be the base
model or an examiner that is wrong - and what would have been rejected is HELD for a person
instead. HELD is not aggregated, so this is never the lenient way out; but a site is not convicted
by a broken measure either, and the run says that it needs help instead of training on nothing.

`vet` is plain values in and out, so that it can run in a worker process.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from aegis_learning import parameters
from aegis_server.review.case import Case as Case
from aegis_server.review.case import Judgement as Judgement
from aegis_server.review.case import Ruling as Ruling
from aegis_server.review.case import Submission as Submission
from aegis_server.review.case import Verdict as Verdict
from aegis_server.review.examiners import golden_set, outlier
from aegis_server.review.findings import Finding

_AGREEMENT = 1.5
_PEERS_MIN = 2


def _quiet(examiner: str) -> None:
    """Tells nobody."""


def vet(
    case: Case, *, begin: Callable[[str], None] = _quiet, without: Collection[str] = ()
) -> Ruling:
    """Judges a round.

    `begin` is told the name of each examiner before it looks; those in `without` do not. Raises the
    errors of `aegis_learning` when base or updates are not what intake let through.
    """
    family = case.family
    base = parameters.decode(case.base, family.shapes)
    updates = [parameters.decode(each.data, family.shapes) for each in case.submissions]
    examples = [each.examples for each in case.submissions]
    outliers: list[list[Finding]] = [[] for _ in updates]
    if outlier.EXAMINER not in without:
        begin(outlier.EXAMINER)
        outliers = outlier.examine(updates, examples)
    golden: list[list[Finding]] = [[] for _ in updates]
    if golden_set.EXAMINER not in without:
        begin(golden_set.EXAMINER)
        golden = golden_set.examine(
            base,
            updates,
            examples,
            suspects={i for i, found in enumerate(outliers) if strongest(found) >= 1},
            logits=family.logits,
            golden=case.golden,
        )
    scores = [score(*pair) for pair in zip(golden, outliers, strict=True)]
    return Ruling(
        tuple(
            Judgement(submission.update_id, verdict, value, ordered(*found))
            for submission, verdict, value, found in zip(
                case.submissions,
                verdicts(scores),
                scores,
                zip(golden, outliers, strict=True),
                strict=True,
            )
        )
    )


def score(golden: Sequence[Finding], outliers: Sequence[Finding]) -> float:
    """Returns the score the findings of both examiners add up to."""
    g, o = strongest(golden), strongest(outliers)
    return max(g, o, (g + o) / _AGREEMENT)


def strongest(findings: Sequence[Finding]) -> float:
    """Returns an examiner's opinion: the strength of its strongest finding."""
    return max((finding.strength for finding in findings), default=0.0)


def verdicts(scores: Sequence[float]) -> list[Verdict]:
    """Returns the verdict for each score of a round."""
    ordinary = sum(value < 1 for value in scores)
    quorum = ordinary >= _PEERS_MIN and 2 * ordinary >= len(scores)
    against = Verdict.REJECTED if quorum else Verdict.HELD
    return [Verdict.ACCEPTED if value < 1 else against for value in scores]


def ordered(*groups: Sequence[Finding]) -> tuple[Finding, ...]:
    """Returns all findings, strongest first."""
    findings = [finding for group in groups for finding in group]
    return tuple(sorted(findings, key=lambda finding: -finding.strength))
