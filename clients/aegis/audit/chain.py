"""How audit records are hashed and how a chain is checked, by anybody, offline.

leaf_hash is RFC 6962's (SHA-256 of 0x00 || record); chain_hash adds the order
(SHA-256 of 0x02 || previous chain hash || leaf hash).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from aegis.v1 import audit_pb2

GENESIS = bytes(32)
SCHEMA_VERSION = 1


def leaf_hash(record: bytes) -> bytes:
    """Returns the 32-byte RFC 6962 leaf hash of a record's exact bytes."""
    return hashlib.sha256(b"\x00" + record).digest()


def chain_hash(previous: bytes, leaf: bytes) -> bytes:
    """Returns the running hash after a leaf."""
    return hashlib.sha256(b"\x02" + previous + leaf).digest()


@dataclass(frozen=True, slots=True)
class Fault:
    """The first record that does not fit, and how."""

    index: int
    problem: str
    expected: str = ""
    actual: str = ""


@dataclass(slots=True)
class Verification:
    """What a pass over a log found. `fault` is None for an intact chain."""

    records: int = 0
    chain_hash: bytes = GENESIS
    counts: Counter[str] = field(default_factory=Counter)
    fault: Fault | None = None

    @property
    def intact(self) -> bool:
        """True when every record is where and what it was."""
        return self.fault is None


def verify(records: Iterable[audit_pb2.StoredAuditRecord]) -> Verification:
    """Recomputes a chain from its first record and stops at the first fault.

    A log that was cut off at its end verifies: only a head kept elsewhere can show that.
    """
    result = Verification()
    for stored in records:
        result.fault = _fault(stored, result.records, result.chain_hash)
        if result.fault is not None:
            return result
        record = audit_pb2.AuditRecord.FromString(stored.record)
        result.counts[audit_pb2.AuditKind.Name(record.kind).removeprefix("AUDIT_KIND_")] += 1
        result.records += 1
        result.chain_hash = stored.chain_hash
    return result


def _fault(stored: audit_pb2.StoredAuditRecord, index: int, previous: bytes) -> Fault | None:
    leaf = leaf_hash(stored.record)
    chained = chain_hash(previous, leaf)
    for problem, expected, actual in (
        ("the record's bytes were altered", stored.leaf_hash, leaf),
        ("it does not follow the record before it", previous, stored.prev_chain_hash),
        ("its chain hash was altered", chained, stored.chain_hash),
    ):
        if expected != actual:
            return Fault(index, problem, expected.hex(), actual.hex())
    try:
        record = audit_pb2.AuditRecord.FromString(stored.record)
    except DecodeError:
        return Fault(index, "its bytes are no audit record")
    if record.index != index:
        return Fault(index, "it carries another index", str(index), str(record.index))
    if record.kind not in audit_pb2.AuditKind.values():
        return Fault(index, "it is of an unknown kind", actual=str(record.kind))
    return None
