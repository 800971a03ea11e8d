"""Objects as files of a folder.

Files appear whole or not at all: a temporary file, fsync, a link to the name, fsync of the folder.
A crash leaves no half-written object, and of two who write the same name one is told that it was
taken.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aegis.errors import ResourceExhausted
from aegis_server.objects.places import Listed, ObjectMissing, checked_name, checked_prefix

# No name begins with a dot, so nothing that is being written is ever listed or read.
_WRITING = ".writing-"


class Folder:
    """A `Place` on a disk. Links are never followed: others may write into the same folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, data: bytes | bytearray, *, replace: bool = False) -> bool:
        """See `Place`. Other faults of the disk stay OSError."""
        path = self._root / checked_name(name)
        try:
            return _write(path, data, replace)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ResourceExhausted(
                "STORAGE_FULL", f"there is no room for {len(data)} bytes; nothing was stored"
            ) from error

    def get(self, name: str, *, start: int = 0, length: int) -> bytes:
        """See `Place`."""
        path = self._root / checked_name(name)
        try:
            # Not blocking: a pipe under this name would never answer.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                raise ObjectMissing(name) from error
            raise
        with os.fdopen(handle, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ObjectMissing(name)
            file.seek(start)
            return _read(file.fileno(), length)

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Place`."""
        yield from _below(self._root / checked_prefix(prefix), prefix)


def _below(folder: Path, prefix: str) -> Iterator[Listed]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        name = prefix + entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _below(folder / entry.name, f"{name}/")
        elif entry.is_file(follow_symlinks=False):
            yield Listed(name, entry.stat(follow_symlinks=False).st_size)


def _read(handle: int, length: int) -> bytes:
    """Returns up to `length` bytes; a file may be longer than anybody ever wrote."""
    left = min(length, max(0, os.fstat(handle).st_size - os.lseek(handle, 0, os.SEEK_CUR)))
    parts = []
    while left and (part := os.read(handle, left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write(path: Path, data: bytes | bytearray, replace: bool) -> bool:
    _make_folder(path.parent)
    # Readable by us alone: mkstemp's mode is 0600.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_WRITING)
    temporary = Path(name)
    written = True
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                written = False
    finally:
        temporary.unlink(missing_ok=True)
    _fsync_folder(path.parent)
    return written


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _fsync_folder(folder.parent)


def _fsync_folder(folder: Path) -> None:
    # A name is durable only once the folder that holds it is.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
