"""Approvals as they are signed: by the approver's own key, or by the server that saw it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from aegis.algorithms import PrivateKey
from aegis.envelope import moment, open_approval, sign_approval
from aegis.errors import InvalidArgument, PermissionDenied, Unauthenticated
from aegis.serving.doors import validate
from aegis.trust import TrustBundle
from aegis.v1 import envelope_pb2
from aegis_server.execution.store import StoredAction

# Of a longer one the start is signed: an approval has to stay small.
_REASON_BYTES_MAX = 1000
# Whoever signs for others is no approver.
_NOBODY = ""


@dataclass(frozen=True, slots=True)
class Place:
    """The step and group an approval is given for."""

    step: int
    group: str


def attest(
    action: StoredAction,
    *,
    approver: str,
    place: Place,
    reason: str,
    at: datetime,
    expires_at: datetime,
    key: PrivateKey,
) -> envelope_pb2.SignedEnvelope:
    """Returns what the server saw, signed with its attestation key; of a long reason the start."""
    return sign_approval(
        action.action_digest,
        key=key,
        action_id=action.action_id,
        approver=approver,
        step=place.step,
        group=place.group,
        reason=reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore"),
        now=at,
        life=expires_at - at,
    )


def open_detached(
    envelope: envelope_pb2.SignedEnvelope,
    action: StoredAction,
    *,
    approver: str,
    trust: TrustBundle,
    now: datetime,
) -> envelope_pb2.ActionApproval:
    """Returns what an approver signed.

    Raises `InvalidArgument` (APPROVAL_INVALID, metadata: check) unless it is an approval of exactly
    this action, by this person, with a key of theirs that counts, and not over.
    """
    try:
        opened = open_approval(envelope, trust=trust, attestor=_NOBODY, now=now, validate=validate)
    except (InvalidArgument, PermissionDenied, Unauthenticated) as error:
        raise invalid(error.reason.lower(), error.message) from error
    approval = opened.approval
    checks = {
        "detached": opened.detached,
        "approver": approval.approver == approver,
        "action_id": approval.action_id == action.action_id,
        "action_digest": approval.action_digest == action.action_digest,
        # It has to last until it is sent, and is not looked at with any grace.
        "expire_time": opened.expires_at > now,
    }
    failed = next((name for name, good in checks.items() if not good), "")
    if failed:
        raise invalid(failed, f"the signed approval has another {failed.replace('_', ' ')}")
    return approval


def expires_at(envelope: bytes) -> datetime:
    """Returns until when a stored approval counts."""
    signed = envelope_pb2.SignedEnvelope.FromString(envelope)
    return moment(envelope_pb2.ActionApproval.FromString(signed.payload).expire_time)


def invalid(check: str, message: str) -> InvalidArgument:
    """Returns the error that says what is wrong with a detached approval."""
    return InvalidArgument("APPROVAL_INVALID", message, check=check)
