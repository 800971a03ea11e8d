"""A folder of immutable bytes, each named by its SHA-256.

The name is the check: `get` never returns other bytes than were put. Files appear whole or not at
all (temporary file, fsync, rename, fsync of the folder), so a crash leaves no half-written model.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

_BYTES_MAX = 256 * 1024 * 1024


class BlobMissing(Exception):
    """No file has this digest."""


class BlobDamaged(Exception):
    """The file's bytes no longer have the digest in its name."""


class BlobStore:
    """Bytes under a folder, two levels deep: `ab/abcdef…`; file work never blocks the event loop.

    Nothing is ever deleted: bytes whose record was rolled back cost space, not correctness.
    """

    def __init__(self, folder: Path, *, bytes_max: int = _BYTES_MAX) -> None:
        self._folder = folder
        self._bytes_max = bytes_max

    async def put(self, data: bytes) -> bytes:
        """Stores the bytes durably and returns their SHA-256; ValueError when there are too many.

        Bytes that are there already are checked, and written again if they were damaged.
        """
        if len(data) > self._bytes_max:
            raise ValueError(f"{len(data)} bytes are more than the store takes, {self._bytes_max}")
        return await asyncio.to_thread(self._put, data)

    async def get(self, sha256: bytes) -> bytes:
        """Returns the bytes; raises `BlobMissing` or `BlobDamaged`."""
        return await asyncio.to_thread(self._get, sha256)

    def _path(self, sha256: bytes) -> Path:
        if len(sha256) != hashlib.sha256().digest_size:
            raise ValueError(f"a SHA-256 has 32 bytes, not {len(sha256)}")
        name = sha256.hex()
        return self._folder / name[:2] / name

    def _put(self, data: bytes) -> bytes:
        sha256 = hashlib.sha256(data).digest()
        path = self._path(sha256)
        with contextlib.suppress(BlobMissing, BlobDamaged):
            self._get(sha256)
            return sha256
        _make_folder(path.parent)
        # Readable by us alone: mkstemp's mode is 0600.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix="writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _fsync_folder(path.parent)
        return sha256

    def _get(self, sha256: bytes) -> bytes:
        path = self._path(sha256)
        try:
            with path.open("rb") as file:
                # A damaged file may be of any size: never read more than was ever written.
                data = file.read(self._bytes_max + 1)
        except FileNotFoundError as error:
            raise BlobMissing(f"there is no blob {sha256.hex()}") from error
        if hashlib.sha256(data).digest() != sha256:
            raise BlobDamaged(f"blob {sha256.hex()} does not have its digest")
        return data


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _fsync_folder(folder.parent)


def _fsync_folder(folder: Path) -> None:
    # A rename is durable only once the folder that holds the name is.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
