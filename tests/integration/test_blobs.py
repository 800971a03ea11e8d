"""The blob store on a real folder."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from aegis_server.blobs import BlobDamaged, BlobMissing, BlobStore

DATA = b"a model" * 1000
NAME = hashlib.sha256(DATA).digest()


def the_file(folder: Path) -> Path:
    (found,) = (path for path in folder.rglob("*") if path.is_file())
    return found


async def test_bytes_come_back_by_their_digest(tmp_path: Path):
    """The name of a blob is the SHA-256 of its bytes."""
    blobs = BlobStore(tmp_path / "blobs")
    assert await blobs.put(DATA) == NAME
    assert await BlobStore(tmp_path / "blobs").get(NAME) == DATA


async def test_blob_lies_in_a_folder_of_its_first_two_digits(tmp_path: Path):
    """Folders stay small, and nobody but the server may read the file."""
    await BlobStore(tmp_path).put(DATA)
    assert the_file(tmp_path) == tmp_path / NAME.hex()[:2] / NAME.hex()
    assert the_file(tmp_path).stat().st_mode & 0o777 == 0o600


async def test_same_bytes_at_once_make_one_file(tmp_path: Path):
    """Writers of the same content do not disturb each other, and leave no temporary file."""
    blobs = BlobStore(tmp_path)
    assert await asyncio.gather(*(blobs.put(DATA) for _ in range(8))) == [NAME] * 8
    assert the_file(tmp_path).read_bytes() == DATA


async def test_missing_blob_is_named(tmp_path: Path):
    """An unknown digest is not an empty blob."""
    with pytest.raises(BlobMissing, match=NAME.hex()):
        await BlobStore(tmp_path).get(NAME)


@pytest.mark.parametrize("damage", [b"", DATA[:-1], DATA + b"x", DATA.replace(b"m", b"n", 1)])
async def test_damaged_blob_is_never_returned(tmp_path: Path, damage: bytes):
    """Cut off, grown or altered: the digest tells."""
    blobs = BlobStore(tmp_path)
    await blobs.put(DATA)
    the_file(tmp_path).write_bytes(damage)
    with pytest.raises(BlobDamaged):
        await blobs.get(NAME)


async def test_putting_a_damaged_blob_again_repairs_it(tmp_path: Path):
    """The file there is checked before it is believed."""
    blobs = BlobStore(tmp_path)
    await blobs.put(DATA)
    the_file(tmp_path).write_bytes(b"damaged")
    await blobs.put(DATA)
    assert await blobs.get(NAME) == DATA


async def test_too_many_bytes_are_refused(tmp_path: Path):
    """The store is bounded, and writes nothing of what it refuses."""
    with pytest.raises(ValueError):
        await BlobStore(tmp_path, bytes_max=10).put(DATA)
    assert list(tmp_path.iterdir()) == []


async def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A full disk leaves neither a blob nor a temporary file behind."""

    def full(handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / NAME.hex()[:2]).mkdir()
    with pytest.raises(OSError, match="no space"):
        await BlobStore(tmp_path).put(DATA)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_name_that_is_no_digest_is_refused(tmp_path: Path):
    """Only 32 bytes can name a blob, so no name can point outside the folder."""
    with pytest.raises(ValueError):
        await BlobStore(tmp_path).get(b"../../etc/passwd")
