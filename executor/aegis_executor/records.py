"""What the executor's audit log keeps: what it was asked, what it refused, how it ended."""

from __future__ import annotations

from aegis.errors import AegisError
from aegis.serving.auditlog import Entry
from aegis.v1 import audit_pb2, envelope_pb2
from aegis_executor.admission import Admitted
from aegis_executor.catalogue import of_spec
from aegis_executor.guards.pauses import Pause
from aegis_executor.guards.store import Resolution
from aegis_executor.store import Ending, Intent
from aegis_executor.verification.store import Applied, Judged


def intended(intent: Intent, admitted: Admitted) -> Entry:
    """Before anything is sent, with everything that was signed."""
    return Entry(
        kind=audit_pb2.AUDIT_KIND_EXECUTION,
        actor=intent.issuer,
        action=intent.action,
        resource=_resource(intent.request),
        outcome="intent",
        subject_id=intent.action_id,
        details=_details(intent),
        evidence={"decision": admitted.decision_envelope},
        # Their reasons are free text.
        attachments={
            "request": admitted.request_envelope,
            **{f"approval_{n}": e for n, e in enumerate(admitted.approval_envelopes, start=1)},
        },
    )


def ended(intent: Intent, ending: Ending, executor: str) -> Entry:
    """How it ended, with what was seen in the cluster."""
    return Entry(
        kind=audit_pb2.AUDIT_KIND_EXECUTION,
        actor=executor,
        action=intent.action,
        resource=_resource(intent.request),
        outcome=ending.state.lower(),
        reason=ending.reason,
        subject_id=intent.action_id,
        details={**ending.observations, **_details(intent)},
    )


def judged(applied: Applied, verdict: Judged, executor: str) -> Entry:
    """Whether it helped, with what the last look found."""
    request_id, digest = applied.request_id, bytes(applied.action_digest).hex()
    return Entry(
        kind=audit_pb2.AUDIT_KIND_EXECUTION,
        actor=executor,
        action=applied.action,
        resource=_resource(applied.request),
        outcome=verdict.state.lower(),
        reason=verdict.reason,
        subject_id=applied.action_id,
        details={
            **verdict.observations,
            "message": verdict.message,
            "request_id": request_id,
            "action_digest": digest,
        },
    )


def refused(peer: str, refusal: AegisError, admitted: Admitted | None = None) -> Entry:
    """What did not get past the checks, which of them said no, and by which numbers.

    What a request says of itself is only believed once it was `admitted`.
    """
    # Not the message: that of a pause quotes somebody's free text.
    details = {name: str(value) for name, value in refusal.metadata.items()}
    if admitted is None:
        return Entry(
            kind=audit_pb2.AUDIT_KIND_EXECUTION,
            actor=peer,
            action="execute",
            resource="/execution/actions",
            outcome="refused",
            reason=refusal.reason,
            details=details,
        )
    return Entry(
        kind=audit_pb2.AUDIT_KIND_EXECUTION,
        actor=admitted.issuer,
        action=admitted.remedy.verb,
        resource=_resource(admitted.request),
        outcome="refused",
        reason=refusal.reason,
        subject_id=admitted.action_id,
        details={
            **details,
            "request_id": admitted.request_id,
            "action_digest": admitted.action_digest.hex(),
        },
    )


def paused(pause: Pause) -> Entry:
    """The executor stops beginning anything, here or altogether."""
    return Entry(
        kind=audit_pb2.AUDIT_KIND_EXECUTION,
        actor=pause.who,
        action="pause",
        resource="/execution",
        outcome="paused",
        subject_id=pause.pause_id,
        details={
            "scope": pause.scope,
            "until": pause.expires_at.isoformat() if pause.expires_at is not None else "",
        },
        attachments={"reason": pause.reason.encode()},
    )


def resumed(*, pause_id: str, who: str, reason: str) -> Entry:
    """It goes on."""
    return Entry(
        kind=audit_pb2.AUDIT_KIND_EXECUTION,
        actor=who,
        action="resume",
        resource="/execution",
        outcome="resumed",
        subject_id=pause_id,
        attachments={"reason": reason.encode()},
    )


def resolved(stands: Resolution, *, who: str, found: str, request_id: str, reason: str) -> Entry:
    """What a person found out where the executor could not tell."""
    return Entry(
        kind=audit_pb2.AUDIT_KIND_EXECUTION,
        actor=who,
        action="resolve",
        resource=f"/executions/{request_id}",
        outcome=found.lower(),
        subject_id=stands.action_id,
        details={"request_id": request_id, "action": stands.action},
        attachments={"reason": reason.encode()},
    )


def _details(intent: Intent) -> dict[str, str]:
    return {"request_id": intent.request_id, "action_digest": bytes(intent.action_digest).hex()}


def _resource(payload: bytes) -> str:
    # These bytes were verified and validated before they were written down.
    request = envelope_pb2.ActionRequest.FromString(bytes(payload))
    spec = envelope_pb2.ActionSpec.FromString(request.spec)
    place = of_spec(spec).place
    namespace = f"/namespaces/{place.namespace}" if place.namespace else ""
    return f"/clusters/{spec.target.cluster}{namespace}/{place.kind.value}/{place.name}"
