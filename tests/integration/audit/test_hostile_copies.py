"""Copies from somebody who wants the verifier to fall over: any bytes in any file get a verdict."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.auditing import Keys

from aegis.audit.copies import ATTACHMENTS, CHECKPOINTS, RECORDS
from aegis.audit.findings import Verdict
from aegis.audit.verifier import verify_copy
from aegis.v1 import audit_pb2

KEYS = Keys()
NOW = datetime(2026, 5, 1, tzinfo=UTC)


def verdict_on(records: bytes, notes: bytes, attachments: bytes) -> Verdict:
    """The verdict on a copy with these files."""
    with tempfile.TemporaryDirectory(prefix="aegis-tests-") as folder:
        log = Path(folder) / "aegis-server"
        log.mkdir()
        (log / RECORDS).write_bytes(records)
        (log / CHECKPOINTS).write_bytes(notes)
        (log / ATTACHMENTS).write_bytes(attachments)
        return verify_copy(Path(folder), trust=KEYS.trust(), now=NOW).verdict


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_get_a_verdict(records: bytes, notes: bytes, attachments: bytes):
    """And it is never good: nothing here was signed."""
    assert verdict_on(records, notes, attachments) is not Verdict.GOOD


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.binary(max_size=120) | st.builds(audit_pb2.AuditRecord.SerializeToString,
             st.builds(audit_pb2.AuditRecord, actor=st.text(max_size=9), index=st.integers(0, 9)))),
    st.binary(min_size=96, max_size=96),
    st.text(max_size=200),
)  # fmt: skip
def test_well_formed_files_of_nonsense_get_a_verdict(
    records: list[bytes], hashes: bytes, note: str
):
    """Lengths that fit, records that are none, notes in any writing."""
    data = b"".join(len(each).to_bytes(4, "big") + each + hashes for each in records)
    notes = f"{note}\n--\n".encode("utf-8", "surrogatepass")
    assert verdict_on(data, notes, b"") is not Verdict.GOOD
