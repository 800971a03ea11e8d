"""Immutable bytes, each named by its SHA-256 and encrypted where they lie.

The name is the check: `get` never returns other bytes than were put. The digest is that of the
plaintext, so the same bytes are kept once, and who can list the place can confirm a guess.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aegis.errors import DataLoss
from aegis_server.objects import envelope
from aegis_server.objects.envelope import EnvelopeError, Head
from aegis_server.objects.keys import KeyMissing, WrapDamaged, Wrapping
from aegis_server.objects.places import ObjectMissing, Place

_BYTES_MAX = 256 * 1024 * 1024
# What an envelope adds, for any size up to the one above.
_OVERHEAD_MAX = 1024 * 1024


class BlobMissing(DataLoss):
    """Nothing has this digest, though somebody recorded that it was stored."""

    def __init__(self, sha256: bytes) -> None:
        super().__init__("DATA_DAMAGED", f"there is no blob {sha256.hex()}", sha256=sha256.hex())


class BlobDamaged(DataLoss):
    """What lies there is not what was put."""

    def __init__(self, sha256: bytes, how: str) -> None:
        super().__init__("DATA_DAMAGED", f"blob {sha256.hex()}: {how}", sha256=sha256.hex())


class BlobLocked(BlobDamaged):
    """The key that wraps its data key is not here."""


class BlobStore:
    """Bytes in a place, below the first two digits of their digest: `ab/abcdef…`.

    Work on files, network and ciphers is done in threads. Nothing is ever deleted: bytes whose
    record was rolled back cost space, not correctness. Every method may also raise `Unavailable`
    (STORAGE_UNAVAILABLE) where the place or the key is on another machine.
    """

    def __init__(self, place: Place, wrapping: Wrapping, *, bytes_max: int = _BYTES_MAX) -> None:
        self._place = place
        self._wrapping = wrapping
        self._bytes_max = bytes_max

    @property
    def key_id(self) -> str:
        """Which key wraps what is put from now on."""
        return self._wrapping.key_id

    async def put(self, data: bytes) -> bytes:
        """Stores the bytes durably and returns their SHA-256; ValueError when there are too many.

        Bytes that are there already are checked, and written again if they were damaged. Raises
        `ResourceExhausted` (STORAGE_FULL), with nothing half written, and `BlobLocked` rather than
        replace what another key may still open.
        """
        if len(data) > self._bytes_max:
            raise ValueError(f"{len(data)} bytes are more than the store takes, {self._bytes_max}")
        return await asyncio.to_thread(self._put, data)

    async def get(self, sha256: bytes) -> bytes:
        """Returns the bytes; raises `BlobMissing`, `BlobDamaged` or `BlobLocked`."""
        return await asyncio.to_thread(self._get, sha256)

    async def key_of(self, sha256: bytes) -> str:
        """Returns which key wraps this blob's; raises as `get`, but does not open it."""
        sealed = await asyncio.to_thread(self._read, sha256, 0, envelope.HEAD_MAX)
        return _head(sha256, sealed).key_id

    async def pieces(self, sha256: bytes, start: int = 0) -> AsyncIterator[bytes]:
        """Yields the bytes from `start` on, chunk by chunk, and reads no more than it yields.

        Each chunk is authenticated before it is yielded. Raises as `get`.
        """
        head, cipher = await asyncio.to_thread(self._open, sha256)
        for index in range(start // head.chunk, head.chunks):
            chunk = await asyncio.to_thread(self._chunk, cipher, head, index)
            skipped = max(0, start - index * head.chunk)
            yield chunk[skipped:]

    def _put(self, data: bytes) -> bytes:
        sha256 = hashlib.sha256(data).digest()
        damaged = False
        try:
            self._get(sha256)
        except BlobMissing:
            pass
        except BlobLocked:
            raise
        except BlobDamaged:
            damaged = True
        else:
            return sha256
        key = self._wrapping.data_key(sha256)
        sealed = envelope.seal(
            data, sha256=sha256, key=key.plain, key_id=key.key_id, wrapped=key.wrapped
        )
        self._place.put(_name(sha256), sealed, replace=damaged)
        return sha256

    def _get(self, sha256: bytes) -> bytes:
        # What lies there may be of any size: never read more than was ever written.
        sealed = self._read(sha256, 0, self._bytes_max + _OVERHEAD_MAX)
        head = _head(sha256, sealed)
        key = self._unwrap(head)
        try:
            data = envelope.open_whole(key, head, sealed)
        except EnvelopeError as error:
            raise BlobDamaged(sha256, str(error)) from error
        if hashlib.sha256(data).digest() != sha256:
            raise BlobDamaged(sha256, "the bytes do not have their digest")
        return data

    def _open(self, sha256: bytes) -> tuple[Head, AESGCM]:
        head = _head(sha256, self._read(sha256, 0, envelope.HEAD_MAX))
        return head, AESGCM(self._unwrap(head))

    def _chunk(self, cipher: AESGCM, head: Head, index: int) -> bytes:
        start, length = head.place(index)
        try:
            return envelope.open_chunk(cipher, head, index, self._read(head.sha256, start, length))
        except EnvelopeError as error:
            raise BlobDamaged(head.sha256, str(error)) from error

    def _read(self, sha256: bytes, start: int, length: int) -> bytes:
        try:
            return self._place.get(_name(sha256), start=start, length=length)
        except ObjectMissing as error:
            raise BlobMissing(sha256) from error

    def _unwrap(self, head: Head) -> bytes:
        try:
            return self._wrapping.unwrap(head.wrapped, key_id=head.key_id, sha256=head.sha256)
        except KeyMissing as error:
            raise BlobLocked(head.sha256, str(error)) from error
        except WrapDamaged as error:
            raise BlobDamaged(head.sha256, str(error)) from error


def _head(sha256: bytes, sealed: bytes) -> Head:
    try:
        head = envelope.read_head(sealed)
    except EnvelopeError as error:
        raise BlobDamaged(sha256, str(error)) from error
    if head.sha256 != sha256:
        raise BlobDamaged(sha256, f"it is {head.sha256.hex()} under another name")
    return head


def _name(sha256: bytes) -> str:
    if len(sha256) != hashlib.sha256().digest_size:
        raise ValueError(f"a SHA-256 has 32 bytes, not {len(sha256)}")
    name = sha256.hex()
    return f"{name[:2]}/{name}"
