"""How an object is encrypted: a key of its own, wrapped by another, and chunks in order.

    0   8  "AEGISOBJ"
    8   1  version, 1
    9   2  length of the key id, k
   11   2  length of the wrapped data key, w
   13   4  plaintext bytes of a chunk, all but the last
   17   8  plaintext bytes of the whole object
   25  32  SHA-256 of the plaintext
   57   7  nonce prefix, random
   64   k  key id, UTF-8: which key wraps the data key
    …   w  wrapped data key
    …      chunks: AES-256-GCM ciphertext and its 16 bytes of tag, each

Numbers are big-endian. The nonce of a chunk is the prefix, its number in four bytes, and 1 for the
last chunk or 0 (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, 2015), so that
chunks which are left out, repeated or out of order do not open, and neither does a prefix of the
object. Everything before the chunks is associated data of each: no byte can be changed unseen. An
empty object has one empty chunk. Every object has its own data key, so no nonce repeats.
"""

from __future__ import annotations

import secrets
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHUNK = 1024 * 1024
# Header, key id and wrapped key are never longer: what is read before anything is known.
HEAD_MAX = 4096
_MAGIC, _VERSION = b"AEGISOBJ", 1
_FIXED = struct.Struct(">8sBHHIQ32s7s")
_TAG = 16
_CHUNK_MAX = 16 * CHUNK


class EnvelopeError(Exception):
    """The bytes are no envelope, or not as they were sealed; the message says where."""


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before the chunks; `raw` is all of it as it was read."""

    key_id: str
    wrapped: bytes
    chunk: int
    size: int
    sha256: bytes
    prefix: bytes
    raw: bytes

    @property
    def chunks(self) -> int:
        """How many there are, at least one."""
        return max(1, -(-self.size // self.chunk))

    @property
    def sealed_size(self) -> int:
        """Bytes of the whole envelope."""
        return len(self.raw) + self.size + self.chunks * _TAG

    def place(self, index: int) -> tuple[int, int]:
        """Returns where a chunk starts in the envelope, and its length there."""
        start = len(self.raw) + index * (self.chunk + _TAG)
        return start, min(self.chunk + _TAG, self.sealed_size - start)


def seal(
    data: bytes, *, sha256: bytes, key: bytes, key_id: str, wrapped: bytes, chunk: int = CHUNK
) -> bytearray:
    """Returns the envelope of bytes whose SHA-256 is given; `key` has 32 bytes, used once."""
    prefix = secrets.token_bytes(7)
    name = key_id.encode()
    fixed = _FIXED.pack(_MAGIC, _VERSION, len(name), len(wrapped), chunk, len(data), sha256, prefix)
    head = Head(key_id, wrapped, chunk, len(data), sha256, prefix, fixed + name + wrapped)
    if len(head.raw) > HEAD_MAX:
        raise ValueError(f"a head of {len(head.raw)} bytes is longer than {HEAD_MAX}")
    cipher = AESGCM(key)
    sealed = bytearray(head.sealed_size)
    sealed[: len(head.raw)] = head.raw
    source, target = memoryview(data), memoryview(sealed)
    for index in range(head.chunks):
        start, length = head.place(index)
        cipher.encrypt_into(
            _nonce(head, index),
            source[index * chunk : (index + 1) * chunk],
            head.raw,
            target[start : start + length],
        )
    return sealed


def read_head(data: bytes) -> Head:
    """Reads what stands before the chunks; raises `EnvelopeError`."""
    if len(data) < _FIXED.size:
        raise EnvelopeError("too short for an envelope")
    magic, version, name, wrapped, chunk, size, sha256, prefix = _FIXED.unpack_from(data)
    if magic != _MAGIC:
        raise EnvelopeError("not an envelope")
    if version != _VERSION:
        raise EnvelopeError(f"version {version} of the envelope is not known here")
    end = _FIXED.size + name + wrapped
    if end > min(len(data), HEAD_MAX) or not 0 < chunk <= _CHUNK_MAX:
        raise EnvelopeError("the head of the envelope makes no sense")
    try:
        key_id = data[_FIXED.size : _FIXED.size + name].decode()
    except UnicodeDecodeError as error:
        raise EnvelopeError("the head of the envelope makes no sense") from error
    return Head(key_id, data[_FIXED.size + name : end], chunk, size, sha256, prefix, data[:end])


def open_chunk(cipher: AESGCM, head: Head, index: int, sealed: bytes | memoryview) -> bytes:
    """Returns the plaintext of one chunk; raises `EnvelopeError`."""
    try:
        return cipher.decrypt(_nonce(head, index), sealed, head.raw)
    except (InvalidTag, ValueError) as error:
        raise _changed(index) from error


def open_whole(key: bytes, head: Head, sealed: bytes) -> bytes:
    """Returns the whole plaintext; raises `EnvelopeError`."""
    if len(sealed) != head.sealed_size:
        raise EnvelopeError(f"{len(sealed)} bytes instead of {head.sealed_size}")
    data = bytearray(head.size)
    cipher, source, target = AESGCM(key), memoryview(sealed), memoryview(data)
    for index in range(head.chunks):
        start, length = head.place(index)
        done = index * head.chunk
        try:
            cipher.decrypt_into(
                _nonce(head, index),
                source[start : start + length],
                head.raw,
                target[done : done + length - _TAG],
            )
        except (InvalidTag, ValueError) as error:
            raise _changed(index) from error
    return bytes(data)


def _changed(index: int) -> EnvelopeError:
    return EnvelopeError(f"chunk {index} is not as it was sealed")


def _nonce(head: Head, index: int) -> bytes:
    return head.prefix + index.to_bytes(4, "big") + bytes([index == head.chunks - 1])
