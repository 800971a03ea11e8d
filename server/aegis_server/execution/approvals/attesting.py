"""Approvals as they are signed: by the approver's own key, or by the server that saw it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from aegis import dsse
from aegis.algorithms import PrivateKey
from aegis.envelope import MAX_SKEW, moment, parse_signed
from aegis.errors import InvalidArgument, Unauthenticated
from aegis.serving.doors import validate
from aegis.trust import ACTION_APPROVAL, TrustBundle
from aegis.v1 import envelope_pb2
from aegis_server.execution.store import StoredAction

# Sixteen of them and a request have to fit in one message to the executor.
_BYTES_MAX = 2048
_REASON_BYTES_MAX = 1000
# Nobody agrees today to what is done next week; the executor refuses it, too.
_LIFE_MAX = timedelta(hours=24)


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
    payload = envelope_pb2.ActionApproval(
        action_digest=action.action_digest,
        action_id=action.action_id,
        approver=approver,
        step=place.step,
        group=place.group,
        reason=reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore"),
    )
    payload.decide_time.FromDatetime(at)
    payload.expire_time.FromDatetime(expires_at)
    return dsse.sign(dsse.APPROVAL_TYPE, payload.SerializeToString(), key)


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
    if envelope.ByteSize() > _BYTES_MAX:
        raise invalid("size", f"a signed approval has at most {_BYTES_MAX} bytes")
    try:
        payload, key = dsse.verify(envelope, dsse.APPROVAL_TYPE, trust.finder(ACTION_APPROVAL, now))
        approval = parse_signed(payload, envelope_pb2.ActionApproval, validate)
        decided, expires = moment(approval.decide_time), moment(approval.expire_time)
    except (InvalidArgument, Unauthenticated) as error:
        raise invalid(error.reason.lower(), error.message) from error
    checks = {
        "key_owner": key.owner == approver,
        "approver": approval.approver == approver,
        "action_id": approval.action_id == action.action_id,
        "action_digest": approval.action_digest == action.action_digest,
        "decide_time": decided <= now + MAX_SKEW,
        "expire_time": now < expires <= decided + _LIFE_MAX,
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
