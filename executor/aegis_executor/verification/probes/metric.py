"""Is the number at least as good as it was before the change?"""

from __future__ import annotations

from aegis_executor.verification.judgement import Finding, Outcome
from aegis_executor.verification.prometheus import Unanswered
from aegis_executor.verification.terms import MetricAsked


def metric(asked: MetricAsked, now: float | Unanswered, before: float | Unanswered) -> Finding:
    """Judges one value; worse by up to the tolerance, a share of the value before, is as good."""
    probe = f"metric {asked.query[:60]}"
    if isinstance(now, Unanswered):
        return Finding(probe, Outcome.UNASKED, now.why)
    if isinstance(before, Unanswered):
        return Finding(probe, Outcome.UNASKED, f"nothing to compare with: {before.why}")
    room = asked.tolerance * abs(before)
    good = now >= before - room if asked.higher_is_better else now <= before + room
    wanted = "at least" if asked.higher_is_better else "at most"
    bound = before - room if asked.higher_is_better else before + room
    told = f"{now:g} after {before:g}, {wanted} {bound:g} wanted"
    return Finding(probe, Outcome.GOOD if good else Outcome.FAILED, told)
