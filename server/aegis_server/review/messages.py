"""Updates, rounds and the queue as messages."""

from __future__ import annotations

from aegis.v1 import review_pb2
from aegis_server.review.case import Verdict
from aegis_server.review.findings import Finding, Severity
from aegis_server.review.holding.store import OverrideRow
from aegis_server.review.queue.store import QueueRow
from aegis_server.review.rounds import Judged
from aegis_server.review.updates import Update

VERDICTS = {
    Verdict.PENDING: review_pb2.Update.VERDICT_PENDING,
    Verdict.ACCEPTED: review_pb2.Update.VERDICT_ACCEPTED,
    Verdict.REJECTED: review_pb2.Update.VERDICT_REJECTED,
    Verdict.HELD: review_pb2.Update.VERDICT_HELD,
}
_SEVERITIES = {
    Severity.INFO: review_pb2.Finding.SEVERITY_INFO,
    Severity.WARNING: review_pb2.Finding.SEVERITY_WARNING,
    Severity.CRITICAL: review_pb2.Finding.SEVERITY_CRITICAL,
}
_STATES = {
    "waiting": review_pb2.GetReviewQueueResponse.STATE_WAITING,
    "examining": review_pb2.GetReviewQueueResponse.STATE_EXAMINING,
    "held": review_pb2.GetReviewQueueResponse.STATE_HELD,
}


def verdict_of(value: review_pb2.Update.Verdict.ValueType) -> Verdict | None:
    """Returns the verdict a message means; None for unspecified."""
    return next((verdict for verdict, number in VERDICTS.items() if number == value), None)


def update_message(update: Update) -> review_pb2.Update:
    """Returns an update with all that is known of it."""
    message = brief_message(update)
    message.score = update.score
    message.ClearField("findings")
    message.findings.extend(_finding_message(finding) for finding in update.findings)
    message.detector = update.detector
    message.golden_sha256 = update.golden_sha256
    message.evidence_sha256 = update.evidence_sha256
    message.would_change.extend(update.would_change)
    message.overrides.extend(_override_message(each) for each in update.overrides)
    if update.reviewed_at is not None:
        message.false_positive_rate = update.false_positive_rate
    if update.hold_until is not None and update.hold_default is not None:
        message.hold_until.FromDatetime(update.hold_until)
        message.hold_default = VERDICTS[update.hold_default]
    return message


def brief_message(update: Update) -> review_pb2.Update:
    """Returns what the sender of an update may know: what became of it, and which examiner spoke
    against it, but no figure that would tell how to do better the next time."""
    message = review_pb2.Update(
        update_id=update.update_id,
        run_id=update.key.run_id,
        round=update.key.round,
        attempt=update.key.attempt,
        participant=update.participant,
        sha256=update.sha256,
        size_bytes=update.size_bytes,
        verdict=VERDICTS[update.verdict],
    )
    message.create_time.FromDatetime(update.created_at)
    if update.reviewed_at is not None:
        message.review_time.FromDatetime(update.reviewed_at)
    if update.verdict in (Verdict.REJECTED, Verdict.HELD) and update.findings:
        message.findings.add(examiner=update.findings[0].examiner)
    return message


def review_message(judged: Judged) -> review_pb2.RoundReview:
    """Returns how a round as a whole was judged."""
    row = judged.row
    message = review_pb2.RoundReview(
        run_id=row.run_id,
        round=row.round,
        attempt=row.attempt,
        fallback=row.fallback,
        fallback_participants=row.fallback_participants,
        reason=row.reason,
        warming_up=row.warming_up,
    )
    if row.judged_at is not None:
        message.judge_time.FromDatetime(row.judged_at)
    return message


def entry_message(row: QueueRow) -> review_pb2.GetReviewQueueResponse.Entry:
    """Returns a round on its way."""
    message = review_pb2.GetReviewQueueResponse.Entry(
        run_id=row.run_id,
        round=row.round,
        attempt=row.attempt,
        updates=row.updates,
        state=_STATES[row.state],
        worker=row.worker,
    )
    message.since.FromDatetime(row.since)
    return message


def _finding_message(finding: Finding) -> review_pb2.Finding:
    return review_pb2.Finding(
        examiner=finding.examiner,
        measure=finding.measure,
        value=finding.value,
        threshold=finding.threshold,
        severity=_SEVERITIES[finding.severity],
        text=finding.text,
    )


def _override_message(row: OverrideRow) -> review_pb2.Override:
    message = review_pb2.Override(
        to=VERDICTS[Verdict(row.to_verdict)],
        by=row.by_whom,
        confirmed_by=row.confirmed_by,
        reason=row.reason,
        effective=row.effective,
    )
    # A word of Python.
    setattr(message, "from", VERDICTS[Verdict(row.from_verdict)])
    message.time.FromDatetime(row.decided_at)
    return message
