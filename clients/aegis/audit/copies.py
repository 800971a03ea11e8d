"""Copies of audit logs in files that any language can read.

A copy is a folder with one folder a log, and the keys in `trust.json`:

    DIR/aegis-server/records.bin       the records, exactly as they were written
    DIR/aegis-server/attachments.bin   what was stored beside them, and was not erased
    DIR/aegis-server/checkpoints.txt   the signed notes, a line "--" behind each
    DIR/trust.json

A record in `records.bin` is its length (four bytes, big endian), its exact bytes, and three hashes
of 32 bytes: leaf, previous chain hash, chain hash. An attachment is the index of its record (eight
bytes), the length of its name (two) and the name, 16 bytes of salt, and the length of its content
(four) and the content. Nothing else is in the files.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from aegis.audit.checkpoints import CheckpointError, parse
from aegis.v1 import audit_pb2

RECORDS = "records.bin"
ATTACHMENTS = "attachments.bin"
CHECKPOINTS = "checkpoints.txt"
TRUST = "trust.json"
# Far above what the server takes; a length beyond it was altered.
RECORD_BYTES_MAX = 16 * 1024 * 1024

_LENGTH = struct.Struct(">I")
_BESIDE = struct.Struct(">QH")
_SALT = 16
_END = "--\n"


class Attachment(NamedTuple):
    """What was stored beside the record at `position`."""

    position: int
    name: str
    salt: bytes
    content: bytes


class CopyWriter:
    """Writes the copy of one log aside, and puts it in its place when it is whole.

    with CopyWriter(directory / "aegis-server") as copy:
        copy.add(stored)
        copy.add_note(note)
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._aside = folder.with_name(f".{folder.name}.new")
        self._files: dict[str, BinaryIO] = {}
        self.records = 0
        self.notes = 0
        self._known = 0

    def __enter__(self) -> Self:
        """Begins with nothing."""
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir(parents=True)
        for name in (RECORDS, ATTACHMENTS, CHECKPOINTS):
            self._files[name] = (self._aside / name).open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Puts it in place, or throws it away after an error."""
        for file in self._files.values():
            if kind is None:
                file.flush()
                os.fsync(file.fileno())
            file.close()
        if kind is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._aside.rename(self._folder)
        else:
            shutil.rmtree(self._aside, ignore_errors=True)

    def add(self, stored: audit_pb2.StoredAuditRecord) -> None:
        """Appends the next record with what is beside it."""
        file = self._files[RECORDS]
        file.write(_LENGTH.pack(len(stored.record)) + stored.record)
        file.write(stored.leaf_hash + stored.prev_chain_hash + stored.chain_hash)
        for beside in stored.attachments:
            name = beside.name.encode()
            file = self._files[ATTACHMENTS]
            file.write(_BESIDE.pack(self.records, len(name)) + name + beside.salt)
            file.write(_LENGTH.pack(len(beside.content)) + beside.content)
        self.records += 1

    def add_note(self, note: str) -> None:
        """Appends a signed checkpoint."""
        self._files[CHECKPOINTS].write((note + _END).encode())
        self.notes += 1
        # What is no checkpoint is found when the copy is verified.
        with suppress(CheckpointError):
            self._known = max(self._known, parse(note).checkpoint.size)

    @property
    def unsigned(self) -> int:
        """How many of the newest records no checkpoint knows yet."""
        return max(self.records - self._known, 0)


class RawRecord(NamedTuple):
    """A record as it is in the file; shorter than it should be where the file ends."""

    record: bytes
    hashes: bytes
    complete: bool


def scan_records(folder: Path) -> Iterator[RawRecord]:
    """Yields what is in records.bin, in order, without looking into it."""
    try:
        file = (folder / RECORDS).open("rb", buffering=1 << 20)
    except FileNotFoundError:
        return
    with file:
        read, unpack = file.read, _LENGTH.unpack
        while head := read(4):
            length = unpack(head)[0] if len(head) == 4 else 0
            if length > RECORD_BYTES_MAX:
                yield RawRecord(read(), b"", complete=False)
                return
            record = read(length)
            hashes = read(96)
            whole = len(head) == 4 and len(record) == length and len(hashes) == 96
            yield RawRecord(record, hashes, whole)


def read_attachments(folder: Path) -> Iterator[Attachment]:
    """Yields what was stored beside records, in order; ValueError for a file that is none."""
    try:
        file = (folder / ATTACHMENTS).open("rb")
    except FileNotFoundError:
        return
    with file:
        while head := file.read(_BESIDE.size):
            try:
                index, length = _BESIDE.unpack(head)
                name = _exactly(file, length).decode()
                salt = _exactly(file, _SALT)
                (size,) = _LENGTH.unpack(_exactly(file, _LENGTH.size))
                content = _exactly(file, size)
            except (struct.error, UnicodeDecodeError, EOFError) as error:
                raise ValueError(f"{ATTACHMENTS} is damaged") from error
            yield Attachment(index, name, salt, content)


def read_notes(path: Path) -> list[str]:
    """Returns the notes of a checkpoints.txt, or the one of a file that holds just one."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if _END not in text:
        return [text] if text else []
    return [note for note in text.split(_END) if note]


def logs_in(directory: Path) -> list[Path]:
    """Returns the folders of the logs of a copy; the copy itself when it is of a single one.

    A folder with only some of the files is a log as well: the others were taken away.
    """
    names = (RECORDS, ATTACHMENTS, CHECKPOINTS)
    alone = [directory] if any((directory / name).is_file() for name in names) else []
    return alone + sorted({path.parent for name in names for path in directory.glob(f"*/{name}")})


def notes_in(directory: Path) -> Iterable[str]:
    """Yields every note anywhere below a folder: of a sink, a witness, or another copy."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and (path.suffix == ".note" or path.name in (CHECKPOINTS, "latest")):
            yield from read_notes(path)


def _exactly(file: BinaryIO, size: int) -> bytes:
    if size > RECORD_BYTES_MAX:
        raise EOFError
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data
