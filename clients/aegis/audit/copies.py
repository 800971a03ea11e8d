"""Audit records in a file, `records.bin`, that any language can read.

Each record is its length (four bytes, big endian), its exact bytes, and three hashes of 32 bytes:
leaf, previous chain hash, chain hash. Nothing else is in the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from aegis.v1 import audit_pb2

FILE_NAME = "records.bin"
_LENGTH = struct.Struct(">I")
_HASH = 32


def write_records(directory: Path, records: Iterable[audit_pb2.StoredAuditRecord]) -> int:
    """Writes records to `directory`/records.bin, whole or not at all; returns their number."""
    directory.mkdir(parents=True, exist_ok=True)
    scratch = directory / f"{FILE_NAME}.new"
    count = 0
    with scratch.open("wb") as file:
        for stored in records:
            file.write(_LENGTH.pack(len(stored.record)) + stored.record)
            file.write(stored.leaf_hash + stored.prev_chain_hash + stored.chain_hash)
            count += 1
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(directory / FILE_NAME)
    return count


def read_records(directory: Path) -> Iterator[audit_pb2.StoredAuditRecord]:
    """Yields the records of a copy.

    A file that ends in the middle of a record yields that record incomplete, which no chain
    accepts: a broken copy is a fault found at its index, not an exception.
    """
    with (directory / FILE_NAME).open("rb") as file:
        while head := file.read(_LENGTH.size):
            length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
            record = file.read(length)
            leaf, previous, chained = (file.read(_HASH) for _ in range(3))
            yield audit_pb2.StoredAuditRecord(
                record=record, leaf_hash=leaf, prev_chain_hash=previous, chain_hash=chained
            )
