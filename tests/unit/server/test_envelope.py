"""Whatever is done to an envelope, it opens to what was sealed or not at all."""

from __future__ import annotations

import hashlib
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aegis_server.objects.envelope import EnvelopeError, open_chunk, open_whole, read_head, seal

KEY = os.urandom(32)
CHUNK = 16


def sealed(data: bytes, key: bytes = KEY) -> bytes:
    return bytes(
        seal(
            data,
            sha256=hashlib.sha256(data).digest(),
            key=key,
            key_id="local:1",
            wrapped=b"wrapped",
            chunk=CHUNK,
        )
    )


def opened(envelope: bytes, key: bytes = KEY) -> bytes:
    return open_whole(key, read_head(envelope), envelope)


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5])
def test_bytes_come_back(length: int):
    """Of every length around a chunk; the head tells the sizes."""
    data = os.urandom(length)
    envelope = sealed(data)
    head = read_head(envelope)
    assert opened(envelope) == data
    assert (head.size, head.key_id, head.wrapped) == (length, "local:1", b"wrapped")
    assert head.sealed_size == len(envelope)


def test_chunks_open_by_themselves():
    """What a range needs."""
    data = os.urandom(3 * CHUNK + 5)
    envelope = sealed(data)
    head = read_head(envelope)
    for index in range(head.chunks):
        start, length = head.place(index)
        part = open_chunk(AESGCM(KEY), head, index, envelope[start : start + length])
        assert part == data[index * CHUNK : (index + 1) * CHUNK]


def test_same_bytes_are_sealed_differently():
    """And nothing of them shows."""
    data = b"a patient" * 10
    assert sealed(data) != sealed(data)
    assert b"patient" not in sealed(data)


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_no_byte_can_be_changed(bit: int):
    """At every position, those of the head, the key id and the wrapped key included."""
    envelope = sealed(os.urandom(2 * CHUNK + 3))
    for position in range(len(envelope)):
        damaged = bytearray(envelope)
        damaged[position] ^= bit
        with pytest.raises(EnvelopeError):
            opened(bytes(damaged))


def test_no_length_but_the_whole_opens():
    """Cut off anywhere, or grown."""
    envelope = sealed(os.urandom(2 * CHUNK))
    for length in range(len(envelope)):
        with pytest.raises(EnvelopeError):
            opened(envelope[:length])
    with pytest.raises(EnvelopeError):
        opened(envelope + b"x")


def test_chunks_cannot_change_places():
    """Nor be repeated."""
    envelope = sealed(os.urandom(3 * CHUNK))
    head = read_head(envelope)
    parts = [envelope[s : s + n] for s, n in map(head.place, range(3))]
    for order in ((1, 0, 2), (0, 2, 1), (0, 0, 2), (0, 1, 1), (2, 2, 2)):
        with pytest.raises(EnvelopeError):
            opened(head.raw + b"".join(parts[each] for each in order))


def test_chunks_of_another_object_do_not_fit():
    """Not even under the same key."""
    one, other = sealed(bytes(CHUNK)), sealed(bytes(CHUNK))
    with pytest.raises(EnvelopeError):
        opened(one[: len(read_head(one).raw)] + other[len(read_head(other).raw) :])


def test_shorter_object_cannot_be_made_of_a_longer_one():
    """Even where the head is rewritten to match: the last chunk knows that it is the last."""
    envelope = sealed(os.urandom(3 * CHUNK))
    head = read_head(envelope)
    end = sum(head.place(1))
    shorter = bytearray(envelope[:end])
    shorter[17:25] = (2 * CHUNK).to_bytes(8, "big")
    assert read_head(bytes(shorter)).sealed_size == len(shorter)
    with pytest.raises(EnvelopeError):
        opened(bytes(shorter))


def test_wrong_key_opens_nothing():
    """A wrong key is not garbage, but a refusal."""
    with pytest.raises(EnvelopeError):
        opened(sealed(b"a model"), os.urandom(32))


@pytest.mark.parametrize("chunk", [0, 2**24 + 1, 2**32 - 1])
def test_head_that_makes_no_sense_is_refused(chunk: int):
    """Before anything is allocated by it."""
    envelope = bytearray(sealed(b"a model"))
    envelope[13:17] = chunk.to_bytes(4, "big")
    with pytest.raises(EnvelopeError, match="makes no sense"):
        read_head(bytes(envelope))


def test_later_version_is_named():
    """An older server says why it cannot."""
    envelope = bytearray(sealed(b"a model"))
    envelope[8] = 2
    with pytest.raises(EnvelopeError, match="version 2"):
        read_head(bytes(envelope))


def test_head_that_would_not_be_read_back_is_never_written():
    """A key id or wrapped key of kilobytes."""
    with pytest.raises(ValueError):
        seal(b"", sha256=bytes(32), key=KEY, key_id="k", wrapped=bytes(5000))
