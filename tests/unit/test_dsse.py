"""What a signature covers, and what it does not."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from aegis import algorithms, dsse
from aegis.errors import InvalidArgument, Unauthenticated
from aegis.v1 import envelope_pb2

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KIND = "application/x-test"


def find(key_id: str):
    public = KEY.public_key()
    return ("record", public) if key_id == algorithms.key_id(public) else None


def test_pae_is_the_one_of_the_specification():
    """The example of the DSSE protocol document encodes to the bytes it gives."""
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_signed_payload_comes_back_with_its_key():
    """A good envelope yields the exact bytes and the record of the key."""
    envelope = dsse.sign(KIND, b"payload", KEY)
    assert dsse.verify(envelope, KIND, find) == (b"payload", "record")


@given(position=st.integers(0, 6), flip=st.integers(1, 255))
def test_any_changed_payload_byte_is_refused(position: int, flip: int):
    """Not one byte of the payload can differ from what was signed."""
    envelope = dsse.sign(KIND, b"payload", KEY)
    altered = bytearray(envelope.payload)
    altered[position] ^= flip
    envelope.payload = bytes(altered)
    with pytest.raises(Unauthenticated) as refusal:
        dsse.verify(envelope, KIND, find)
    assert refusal.value.reason == "SIGNATURE_INVALID"


def test_signature_of_another_payload_type_is_refused():
    """A signature over a decision is none over a request with the same bytes."""
    envelope = dsse.sign("application/x-other", b"payload", KEY)
    envelope.payload_type = KIND
    with pytest.raises(Unauthenticated) as refusal:
        dsse.verify(envelope, KIND, find)
    assert refusal.value.reason == "SIGNATURE_INVALID"


def test_unexpected_payload_type_is_malformed():
    """An envelope made for something else is refused before any key is looked up."""
    envelope = dsse.sign("application/x-other", b"payload", KEY)
    with pytest.raises(InvalidArgument) as refusal:
        dsse.verify(envelope, KIND, find)
    assert refusal.value.reason == "ENVELOPE_MALFORMED"


@pytest.mark.parametrize("count", [0, 5])
def test_envelope_with_no_or_too_many_signatures_is_malformed(count: int):
    """Between one and four signatures, no more work than that."""
    signature = dsse.sign(KIND, b"payload", KEY).signatures[0]
    envelope = envelope_pb2.SignedEnvelope(
        payload=b"payload", payload_type=KIND, signatures=[signature] * count
    )
    with pytest.raises(InvalidArgument) as refusal:
        dsse.verify(envelope, KIND, find)
    assert refusal.value.reason == "ENVELOPE_MALFORMED"


def test_unknown_key_is_refused():
    """A perfect signature by somebody unknown counts for nothing."""
    stranger = Ed25519PrivateKey.generate()
    with pytest.raises(Unauthenticated) as refusal:
        dsse.verify(dsse.sign(KIND, b"payload", stranger), KIND, find)
    assert refusal.value.reason == "SIGNING_KEY_UNUSABLE"


def test_key_id_is_only_a_hint():
    """A stranger's signature under a known key's id is still refused."""
    envelope = dsse.sign(KIND, b"payload", Ed25519PrivateKey.generate())
    envelope.signatures[0].key_id = algorithms.key_id(KEY.public_key())
    with pytest.raises(Unauthenticated) as refusal:
        dsse.verify(envelope, KIND, find)
    assert refusal.value.reason == "SIGNATURE_INVALID"


def test_envelope_that_is_too_large_is_malformed():
    """It is kept as evidence, and has to fit in a message to the executor with its decision."""
    assert dsse.verify(dsse.sign(KIND, bytes(dsse.MAX_BYTES - 512), KEY), KIND, find)
    with pytest.raises(InvalidArgument) as refusal:
        dsse.verify(dsse.sign(KIND, bytes(dsse.MAX_BYTES), KEY), KIND, find)
    assert refusal.value.reason == "ENVELOPE_MALFORMED"
