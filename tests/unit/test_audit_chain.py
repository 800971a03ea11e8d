"""What verification finds in an altered log."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis.audit import chain as auditchain
from aegis.audit.copies import FILE_NAME, read_records, write_records
from aegis.v1 import audit_pb2


def chain(count: int) -> list[audit_pb2.StoredAuditRecord]:
    stored, previous = [], auditchain.GENESIS
    for index in range(count):
        record = audit_pb2.AuditRecord(
            index=index, kind=audit_pb2.AUDIT_KIND_RUN, actor="user:admin", outcome=str(index)
        ).SerializeToString()
        leaf = auditchain.leaf_hash(record)
        chained = auditchain.chain_hash(previous, leaf)
        stored.append(
            audit_pb2.StoredAuditRecord(
                record=record, leaf_hash=leaf, prev_chain_hash=previous, chain_hash=chained
            )
        )
        previous = chained
    return stored


def test_untouched_chain_is_intact_and_counted():
    """All records are counted by kind and the head is the last chain hash."""
    stored = chain(5)
    result = auditchain.verify(stored)
    assert (result.intact, result.records, result.counts) == (True, 5, {"RUN": 5})
    assert result.chain_hash == stored[-1].chain_hash


def test_empty_log_is_intact():
    """Nothing recorded is nothing altered."""
    assert auditchain.verify([]).intact


def test_altered_record_is_named():
    """Changing one record's bytes is found at its index, with both hashes."""
    stored = chain(5)
    record = audit_pb2.AuditRecord.FromString(stored[3].record)
    record.outcome = "allow"
    stored[3].record = record.SerializeToString()
    fault = auditchain.verify(stored).fault
    assert fault is not None
    assert (fault.index, fault.problem) == (3, "the record's bytes were altered")
    assert fault.expected != fault.actual


def test_altered_record_with_a_recomputed_leaf_is_named():
    """Repairing the leaf hash as well only moves the fault to the chain."""
    stored = chain(5)
    stored[3].record += b""
    record = audit_pb2.AuditRecord.FromString(stored[3].record)
    record.outcome = "allow"
    stored[3].record = record.SerializeToString()
    stored[3].leaf_hash = auditchain.leaf_hash(stored[3].record)
    fault = auditchain.verify(stored).fault
    assert fault is not None
    assert fault.index == 3


@pytest.mark.parametrize("index", range(4))
def test_removed_record_is_noticed(index: int):
    """Whatever follows a hole does not fit."""
    stored = chain(5)
    del stored[index]
    fault = auditchain.verify(stored).fault
    assert fault is not None
    assert fault.index == index


def test_swapped_records_are_noticed():
    """The order is part of what is recorded."""
    stored = chain(5)
    stored[1], stored[2] = stored[2], stored[1]
    fault = auditchain.verify(stored).fault
    assert fault is not None
    assert fault.index == 1


def test_every_altered_byte_of_a_copy_is_found(tmp_path: Path):
    """Flipping any byte of an exported file is a fault at or before the end of the log."""
    write_records(tmp_path, chain(3))
    original = (tmp_path / FILE_NAME).read_bytes()
    for position in range(len(original)):
        altered = bytearray(original)
        altered[position] ^= 0x01
        (tmp_path / FILE_NAME).write_bytes(bytes(altered))
        assert not auditchain.verify(read_records(tmp_path)).intact, position


def test_copy_comes_back_as_it_was(tmp_path: Path):
    """Writing and reading a copy changes nothing and leaves no scratch file."""
    assert write_records(tmp_path, chain(3)) == 3
    assert list(read_records(tmp_path)) == chain(3)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
