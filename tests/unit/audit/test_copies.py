"""Copies of logs while they are written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis.audit.checkpoints import Checkpoint, sign
from aegis.audit.copies import CopyWriter
from aegis.v1 import audit_pb2

LOG = "aegis-server"
HASH = bytes(32)


def test_records_that_no_checkpoint_knows_are_counted(tmp_path: Path):
    """Whatever else came as a note is for the verifier to find, not for who copies."""
    now, key = datetime(2026, 1, 1, tzinfo=UTC), Ed25519PrivateKey.generate()
    record = audit_pb2.StoredAuditRecord(
        record=b"r", leaf_hash=HASH, prev_chain_hash=HASH, chain_hash=HASH
    )
    with CopyWriter(tmp_path / LOG) as copy:
        for size in (2, 1):
            copy.add_note(sign(Checkpoint(LOG, size, HASH, HASH, now), key))
        copy.add_note("nonsense\n")
        assert copy.unsigned == 0
        for _ in range(5):
            copy.add(record)
    assert (copy.records, copy.notes, copy.unsigned) == (5, 3, 3)
