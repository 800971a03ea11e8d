"""Signed notes: one form, one key, and not a byte may change."""

from __future__ import annotations

import base64
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.auditing import START, Keys

from aegis.audit import checkpoints
from aegis.audit.checkpoints import Checkpoint, CheckpointError
from aegis.audit.signers import cosigned_by, open_checkpoint
from aegis.trust import TrustBundle

CUT = Checkpoint("aegis-server", 5, bytes(range(32)), bytes(32), START)
KEYS = Keys()
NOTE = checkpoints.sign(CUT, KEYS.log)
COSIGNED = NOTE + checkpoints.cosign(NOTE, "witness:local", KEYS.witness, START)


def check_of(note: str, keys: Keys = KEYS) -> str:
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(note, keys.trust())
    return refusal.value.check


def test_note_says_what_was_signed():
    """Log, size, both hashes and the time come back; so does who cosigned it and when."""
    assert open_checkpoint(COSIGNED, KEYS.trust()) == CUT
    assert cosigned_by(COSIGNED, KEYS.trust()) == {"witness:local": START}
    assert cosigned_by(NOTE, KEYS.trust()) == {}


def test_every_altered_byte_of_a_note_is_noticed():
    """In the body, in either signature, in the white space between them."""
    for position in range(len(COSIGNED)):
        for other in ("0", "\n"):
            if COSIGNED[position] == other:
                continue
            altered = COSIGNED[:position] + other + COSIGNED[position + 1 :]
            try:
                held = open_checkpoint(altered, KEYS.trust())
                witnessed = cosigned_by(altered, KEYS.trust())
            except CheckpointError:
                continue
            # A cosignature under another name or key hash is nobody's: it does not count.
            assert (held, witnessed) == (CUT, {}), (position, altered)


def test_note_of_a_key_nobody_trusts_is_refused():
    """A signature proves nothing unless its key is known."""
    assert check_of(NOTE, Keys()) == "key"


def test_note_in_the_name_of_another_log_is_refused():
    """The key of one log does not sign for another."""
    other = Checkpoint("aegis-executor", 5, CUT.root, CUT.chain, START)
    assert check_of(checkpoints.sign(other, KEYS.log)) == "key"


def test_note_signed_outside_the_validity_of_its_key_is_refused():
    """A key that had ended cannot seal anything any more."""
    late = Checkpoint("aegis-server", 5, CUT.root, CUT.chain, datetime(2028, 1, 1, tzinfo=UTC))
    assert check_of(checkpoints.sign(late, KEYS.log)) == "key"


def revoked(owner: str, when: datetime) -> TrustBundle:
    """The bundle after a key of this owner was revoked."""
    keys = KEYS.trust().keys
    return TrustBundle(
        tuple(replace(key, revoked_at=when) if key.owner == owner else key for key in keys)
    )


def test_cosignature_by_a_key_that_was_revoked_does_not_count():
    """What the witness signed before goes on counting."""
    minute = timedelta(minutes=1)
    assert cosigned_by(COSIGNED, revoked("witness:local", START)) == {}
    assert cosigned_by(COSIGNED, revoked("witness:local", START + minute)) != {}


def test_revoked_key_of_a_log_still_proves_what_it_signed_and_brings_nothing_new():
    """Its note from before is good in a copy; who is given it now takes it for one of a thief."""
    trust = revoked("log:aegis-server", START + timedelta(minutes=1))
    assert open_checkpoint(NOTE, trust) == CUT
    with pytest.raises(CheckpointError, match="was not valid"):
        open_checkpoint(NOTE, trust, now=START + timedelta(minutes=2))


def test_false_cosignature_of_a_known_witness_is_refused():
    """Who signs in a witness' name with another key is not overlooked."""
    line = checkpoints.cosign(NOTE, "witness:local", KEYS.witness, START)
    other = checkpoints.sign(Checkpoint("aegis-server", 6, CUT.root, CUT.chain, START), KEYS.log)
    with pytest.raises(CheckpointError) as refusal:
        cosigned_by(other + line, KEYS.trust())
    assert refusal.value.check == "signature"
    foreign = checkpoints.cosign(NOTE, "witness:local", Ed25519PrivateKey.generate(), START)
    assert cosigned_by(NOTE + foreign, KEYS.trust()) == {}


@pytest.mark.parametrize("stamp", [2**64 - 1, 2**40])
def test_cosignature_of_a_time_that_is_none_is_refused(stamp: int):
    """A trusted witness can sign any number; it ends neither the log's program nor the verifier."""
    moment = struct.pack(">Q", stamp)
    name, body = "witness:local", checkpoints.parse(NOTE).body
    signed = KEYS.witness.sign(f"cosignature/v1\ntime {stamp}\n{body}".encode())
    raw = checkpoints.key_hash(name, KEYS.witness.public_key(), b"\4") + moment + signed
    with pytest.raises(CheckpointError) as refusal:
        cosigned_by(f"{NOTE}\u2014 {name} {base64.b64encode(raw).decode()}\n", KEYS.trust())
    assert refusal.value.check == "form"


@given(
    st.text(max_size=300) | st.sampled_from([NOTE[:-1], NOTE + NOTE, NOTE.replace("\n", "\r\n")])
)
def test_anything_else_is_no_checkpoint(text: str) -> None:
    """Garbage is refused by its form; nothing else happens."""
    with pytest.raises(CheckpointError) as refusal:
        checkpoints.parse(text)
    assert refusal.value.check == "form"
