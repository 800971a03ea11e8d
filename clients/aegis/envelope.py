"""Signed action requests: made by whoever asks, opened by server and executor alike.

spec = ActionSpec(target=..., restart_pod=ActionSpec.RestartPod())
envelope = sign_action(spec, key=key, issuer="automation:autopilot", audience="aegis")
stub.SubmitAction(SubmitActionRequest(envelope=envelope))
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
from aegis.trust import ACTION_REQUEST, TrustBundle, TrustedKey
from aegis.v1 import envelope_pb2

MAX_LIFE = timedelta(seconds=60)
MAX_SKEW = timedelta(seconds=5)

Payload = TypeVar("Payload", bound=Message)
Validate = Callable[[Message, str], None]


def sign_action(
    spec: envelope_pb2.ActionSpec,
    *,
    key: PrivateKey,
    issuer: str,
    audience: str,
    request_id: str | None = None,
    attributes: Mapping[str, str] | None = None,
    reason: str = "",
    now: datetime | None = None,
    life: timedelta = MAX_LIFE,
) -> envelope_pb2.SignedEnvelope:
    """Returns a request to do `spec`, signed with `key`, good for `life` from now.

    Each call makes a fresh nonce. Give the same `request_id` again to retry without doing
    anything twice.
    """
    issued = now or datetime.now(UTC)
    request = envelope_pb2.ActionRequest(
        request_id=request_id or str(uuid.uuid4()),
        nonce=secrets.token_bytes(16),
        issuer=issuer,
        audience=audience,
        spec=spec.SerializeToString(),
        attributes=dict(attributes or {}),
        reason=reason,
    )
    request.issue_time.FromDatetime(issued)
    request.expire_time.FromDatetime(issued + life)
    return dsse.sign(dsse.REQUEST_TYPE, request.SerializeToString(), key)


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
