"""Signed envelopes: DSSE v1 over exact bytes.

What is signed is the pre-authentication encoding of payload type and payload (DSSE protocol,
https://github.com/secure-systems-lab/dsse), so the type is authenticated and nothing has to be
parsed before the signature is known to be good. The key decides the algorithm; `key_id` is only
a hint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

from cryptography.exceptions import InvalidSignature

from aegis import algorithms
from aegis.algorithms import PrivateKey, PublicKey, key_id, public_half
from aegis.errors import InvalidArgument, Unauthenticated
from aegis.v1 import envelope_pb2

SPEC_TYPE = "application/vnd.aegis.action-spec.v1+protobuf"
REQUEST_TYPE = "application/vnd.aegis.action-request.v1+protobuf"
DECISION_TYPE = "application/vnd.aegis.action-decision.v1+protobuf"
APPROVAL_TYPE = "application/vnd.aegis.action-approval.v1+protobuf"
MAX_SIGNATURES = 4
# What is signed is kept as evidence. A request, its decision and 16 approvals also have to fit in
# one message to the executor, which takes 64 KiB: 24 + 6 + 16 * 2, and what the message needs.
MAX_BYTES = 24 * 1024
_MAX_BYTES_OF = {DECISION_TYPE: 6 * 1024, APPROVAL_TYPE: 2 * 1024}

Key = TypeVar("Key")


def max_bytes(payload_type: str) -> int:
    """Returns how large an envelope of this type may be."""
    return _MAX_BYTES_OF.get(payload_type, MAX_BYTES)


def pae(payload_type: str, payload: bytes) -> bytes:
    """Returns DSSE's pre-authentication encoding, the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def action_digest(spec: bytes) -> bytes:
    """Returns the 32 bytes everything about an action is bound to."""
    return hashlib.sha256(pae(SPEC_TYPE, spec)).digest()


def sign(payload_type: str, payload: bytes, key: PrivateKey) -> envelope_pb2.SignedEnvelope:
    """Returns the envelope that carries `payload` with one signature."""
    signature = envelope_pb2.Signature(
        key_id=key_id(public_half(key)), sig=algorithms.sign(key, pae(payload_type, payload))
    )
    return envelope_pb2.SignedEnvelope(
        payload=payload, payload_type=payload_type, signatures=[signature]
    )


def verify(
    envelope: envelope_pb2.SignedEnvelope,
    payload_type: str,
    find_key: Callable[[str], tuple[Key, PublicKey] | None],
) -> tuple[bytes, Key]:
    """Returns the payload, now proven, and the record of the key that signed it.

    `find_key` gives the usable key of a key id, or None. Raises `InvalidArgument`
    (ENVELOPE_MALFORMED) or `Unauthenticated` (SIGNING_KEY_UNUSABLE, SIGNATURE_INVALID).
    """
    if envelope.payload_type != payload_type:
        raise InvalidArgument("ENVELOPE_MALFORMED", f"the payload type must be {payload_type}")
    if envelope.ByteSize() > (limit := max_bytes(payload_type)):
        raise InvalidArgument("ENVELOPE_MALFORMED", f"such an envelope has at most {limit} bytes")
    if not 1 <= len(envelope.signatures) <= MAX_SIGNATURES:
        raise InvalidArgument(
            "ENVELOPE_MALFORMED", f"an envelope carries 1 to {MAX_SIGNATURES} signatures"
        )
    known = [
        (found, signature.sig)
        for signature in envelope.signatures
        if (found := find_key(signature.key_id)) is not None
    ]
    if not known:
        raise Unauthenticated("SIGNING_KEY_UNUSABLE", "no signature is by a key that may sign this")
    message = pae(payload_type, envelope.payload)
    for (record, public_key), sig in known:
        try:
            algorithms.verify(public_key, sig, message)
        except InvalidSignature:
            continue
        return envelope.payload, record
    raise Unauthenticated("SIGNATURE_INVALID", "the signature does not fit the payload")
