"""Signed action requests and approvals: made by who asks or agrees, opened by server and executor.

spec = ActionSpec(target=..., restart_pod=ActionSpec.RestartPod())
envelope = sign_action(spec, key=key, issuer="automation:autopilot", audience="aegis")
stub.SubmitAction(SubmitActionRequest(envelope=envelope))

A spec that was planned comes as bytes (`PlanActionResponse.spec`, `Action.spec_bytes`), and it is
those very bytes that are signed: what is serialised again may have another digest.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from google.protobuf import timestamp_pb2, unknown_fields
from google.protobuf.message import DecodeError, Message

from aegis import dsse
from aegis.algorithms import PrivateKey
from aegis.errors import InvalidArgument, PermissionDenied, Unauthenticated
from aegis.trust import (
    ACTION_APPROVAL,
    ACTION_REQUEST,
    APPROVAL_ATTESTATION,
    TrustBundle,
    TrustedKey,
)
from aegis.v1 import envelope_pb2

MAX_LIFE = timedelta(seconds=60)
MAX_SKEW = timedelta(seconds=5)
APPROVAL_LIFE = timedelta(minutes=15)
# Nobody agrees today to what is done next week.
APPROVAL_MAX_LIFE = timedelta(hours=24)

Payload = TypeVar("Payload", bound=Message)
Validate = Callable[[Message, str], None]


def sign_action(
    spec: envelope_pb2.ActionSpec | bytes,
    *,
    key: PrivateKey,
    issuer: str,
    audience: str,
    request_id: str | None = None,
    attributes: Mapping[str, str] | None = None,
    reason: str = "",
    mode: envelope_pb2.ActionRequest.Mode.ValueType = envelope_pb2.ActionRequest.MODE_EXECUTE,
    break_glass: bool = False,
    incident: str = "",
    now: datetime | None = None,
    life: timedelta = MAX_LIFE,
) -> envelope_pb2.SignedEnvelope:
    """Returns a request to do `spec`, signed with `key`, good for `life` from now.

    Each call makes a fresh nonce. Give the same `request_id` again to retry without doing
    anything twice. Bytes are signed as they are; ValueError when they do not name the `incident`
    that was asked for.
    """
    issued = now or datetime.now(UTC)
    request = envelope_pb2.ActionRequest(
        request_id=request_id or str(uuid.uuid4()),
        nonce=secrets.token_bytes(16),
        issuer=issuer,
        audience=audience,
        spec=_spec_bytes(spec, incident),
        attributes=dict(attributes or {}),
        reason=reason,
        mode=mode,
        break_glass=break_glass,
    )
    request.issue_time.FromDatetime(issued)
    request.expire_time.FromDatetime(issued + life)
    return dsse.sign(dsse.REQUEST_TYPE, request.SerializeToString(), key)


def _spec_bytes(spec: envelope_pb2.ActionSpec | bytes, incident: str) -> bytes:
    if isinstance(spec, bytes):
        if incident and envelope_pb2.ActionSpec.FromString(spec).incident_id != incident:
            raise ValueError(f"the spec is not for incident {incident}: plan it with its incident")
        return spec
    if incident:
        asked = envelope_pb2.ActionSpec()
        asked.CopyFrom(spec)
        asked.incident_id = incident
        return asked.SerializeToString()
    return spec.SerializeToString()


def sign_approval(
    action_digest: bytes,
    *,
    key: PrivateKey,
    action_id: str,
    approver: str,
    group: str,
    step: int = 1,
    reason: str = "",
    now: datetime | None = None,
    life: timedelta = APPROVAL_LIFE,
) -> envelope_pb2.SignedEnvelope:
    """Returns the word of `approver`, of `group`, that the action of this digest may be done.

    Signed with the approver's own key it is a detached approval; signed with a server's key of
    usage "approval-attestation" it says that the server saw them approve. Take the digest of the
    spec bytes you looked at (`dsse.action_digest`), not the one somebody names. Raises
    `InvalidArgument` (ENVELOPE_MALFORMED) when a long reason makes it too large.
    """
    decided = now or datetime.now(UTC)
    approval = envelope_pb2.ActionApproval(
        action_digest=action_digest,
        action_id=action_id,
        approver=approver,
        step=step,
        group=group,
        reason=reason,
    )
    approval.decide_time.FromDatetime(decided)
    approval.expire_time.FromDatetime(decided + life)
    envelope = dsse.sign(dsse.APPROVAL_TYPE, approval.SerializeToString(), key)
    if envelope.ByteSize() > (limit := dsse.max_bytes(dsse.APPROVAL_TYPE)):
        raise InvalidArgument("ENVELOPE_MALFORMED", f"an approval has at most {limit} bytes")
    return envelope


@dataclass(frozen=True, slots=True)
class OpenedRequest:
    """A request whose signature, form, audience and age were found good."""

    request: envelope_pb2.ActionRequest
    spec: envelope_pb2.ActionSpec
    key: TrustedKey
    payload_sha256: bytes
    action_digest: bytes
    expires_at: datetime


def open_action(
    envelope: envelope_pb2.SignedEnvelope,
    *,
    trust: TrustBundle,
    audience: str,
    now: datetime,
    validate: Validate,
) -> OpenedRequest:
    """Verifies a signed request and returns what it says.

    In this order, so that nothing unproven is ever parsed: envelope shape, key, signature; then
    form (`validate` checks the constraints of the .proto); then audience, owner and age. Raises
    the errors `ExecutionService.SubmitAction` lists, up to REQUEST_EXPIRED.
    """
    payload, key = dsse.verify(envelope, dsse.REQUEST_TYPE, trust.finder(ACTION_REQUEST, now))
    request = parse_signed(payload, envelope_pb2.ActionRequest, validate)
    spec = parse_signed(request.spec, envelope_pb2.ActionSpec, validate)
    if request.audience != audience:
        raise PermissionDenied("AUDIENCE_MISMATCH", f"this is {audience}, not who was addressed")
    if key.owner != request.issuer:
        raise PermissionDenied("SIGNER_PEER_MISMATCH", "the key does not belong to the issuer")
    issued = moment(request.issue_time)
    expires = moment(request.expire_time)
    if issued > now + MAX_SKEW:
        raise Unauthenticated(
            "REQUEST_FROM_FUTURE", "the request was issued in the future", server_time=now
        )
    if expires - issued > MAX_LIFE or expires <= issued:
        raise Unauthenticated(
            "REQUEST_EXPIRED", "a request may live for at most 60 seconds", server_time=now
        )
    if now > expires + MAX_SKEW:
        raise Unauthenticated("REQUEST_EXPIRED", "the request has expired", server_time=now)
    return OpenedRequest(
        request=request,
        spec=spec,
        key=key,
        payload_sha256=hashlib.sha256(payload).digest(),
        action_digest=dsse.action_digest(request.spec),
        expires_at=expires,
    )


@dataclass(frozen=True, slots=True)
class OpenedApproval:
    """An approval whose signature, form, owner and age were found good.

    Who looks at it still has to see that it is for the action at hand.
    """

    approval: envelope_pb2.ActionApproval
    key: TrustedKey
    # Signed with the approver's own key, and not by a server that saw them.
    detached: bool
    expires_at: datetime


def open_approval(
    envelope: envelope_pb2.SignedEnvelope,
    *,
    trust: TrustBundle,
    attestor: str,
    now: datetime,
    validate: Validate,
) -> OpenedApproval:
    """Verifies one approval: by its approver's own key, or attested by `attestor`.

    Raises `InvalidArgument` (ENVELOPE_MALFORMED, PAYLOAD_INVALID), `Unauthenticated`
    (SIGNING_KEY_UNUSABLE, SIGNATURE_INVALID, REQUEST_FROM_FUTURE, REQUEST_EXPIRED) or
    `PermissionDenied` (SIGNER_PEER_MISMATCH).
    """
    own = trust.finder(ACTION_APPROVAL, now)
    attested = trust.finder(APPROVAL_ATTESTATION, now)
    payload, key = dsse.verify(
        envelope, dsse.APPROVAL_TYPE, lambda key_id: own(key_id) or attested(key_id)
    )
    approval = parse_signed(payload, envelope_pb2.ActionApproval, validate)
    detached = key.usage == ACTION_APPROVAL
    if key.owner != (approval.approver if detached else attestor):
        whose = "the approver" if detached else "who attests"
        raise PermissionDenied("SIGNER_PEER_MISMATCH", f"the key does not belong to {whose}")
    decided, expires = moment(approval.decide_time), moment(approval.expire_time)
    if decided > now + MAX_SKEW:
        raise Unauthenticated(
            "REQUEST_FROM_FUTURE", "the approval was given in the future", server_time=now
        )
    if not timedelta(0) < expires - decided <= APPROVAL_MAX_LIFE:
        raise Unauthenticated(
            "REQUEST_EXPIRED", "an approval may live for at most 24 hours", server_time=now
        )
    if now > expires:
        raise Unauthenticated("REQUEST_EXPIRED", "the approval has expired", server_time=now)
    return OpenedApproval(approval, key, detached, expires)


def parse_signed(payload: bytes, kind: type[Payload], validate: Validate) -> Payload:
    """Parses bytes whose signature is already proven.

    Raises `InvalidArgument` (PAYLOAD_INVALID) for bytes that are no such message, for fields this
    program does not know (it must not carry out half of what was signed), and for values that
    break a constraint.
    """
    message = kind()
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise InvalidArgument("PAYLOAD_INVALID", "the payload does not parse") from error
    if _has_unknown_fields(message):
        raise InvalidArgument(
            "PAYLOAD_INVALID", "the payload has fields this program is too old for"
        )
    validate(message, "PAYLOAD_INVALID")
    return message


def moment(timestamp: timestamp_pb2.Timestamp) -> datetime:
    """Returns an aware time; raises `InvalidArgument` (PAYLOAD_INVALID) outside years 1 to 9999."""
    try:
        return timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument("PAYLOAD_INVALID", "a time in the payload is no time") from error


def _has_unknown_fields(message: Message) -> bool:
    if len(unknown_fields.UnknownFieldSet(message)) > 0:
        return True
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        children = value if field.is_repeated else (value,)
        if any(_has_unknown_fields(child) for child in children):
            return True
    return False
