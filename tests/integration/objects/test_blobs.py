"""The blob store on a real folder and on S3."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path

import pytest
from tests.blobs import blobs_in, key_file

from aegis.errors import AegisError
from aegis_server.objects.blobs import BlobDamaged, BlobLocked, BlobMissing, BlobStore
from aegis_server.objects.envelope import CHUNK, read_head
from aegis_server.objects.folder import Folder
from aegis_server.objects.keys import LocalKeys
from aegis_server.objects.kms import AwsKms
from aegis_server.objects.places import Place

DATA = b"a model" * 1000
NAME = hashlib.sha256(DATA).digest()
OBJECT = f"{NAME.hex()[:2]}/{NAME.hex()}"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return key_file(tmp_path / "key")


def the_file(folder: Path) -> Path:
    (found,) = (path for path in folder.rglob("*") if path.is_file())
    return found


async def read(blobs: BlobStore, sha256: bytes, start: int) -> bytes:
    return b"".join([piece async for piece in blobs.pieces(sha256, start)])


async def test_bytes_come_back_by_their_digest(place: Place, key: Path):
    """The name of a blob is the SHA-256 of its bytes, and a later process finds it."""
    assert await BlobStore(place, LocalKeys(key)).put(DATA) == NAME
    assert await BlobStore(place, LocalKeys(key)).get(NAME) == DATA


async def test_nothing_of_the_bytes_can_be_read_where_they_lie(place: Place, key: Path):
    """Only their digest and their length show."""
    await BlobStore(place, LocalKeys(key)).put(DATA)
    (found,) = place.list("")
    stored = place.get(found.name, length=2 * len(DATA))
    assert (found.name, found.size) == (OBJECT, len(stored))
    assert b"model" not in stored
    assert read_head(stored).sha256 == NAME


async def test_blob_is_readable_by_the_server_alone(tmp_path: Path):
    """Like every file of ours."""
    await blobs_in(tmp_path / "blobs").put(DATA)
    assert the_file(tmp_path / "blobs") == tmp_path / "blobs" / OBJECT
    assert the_file(tmp_path / "blobs").stat().st_mode & 0o777 == 0o600


async def test_same_bytes_at_once_make_one_object(place: Place, key: Path):
    """Writers of the same content do not disturb each other, and leave nothing else."""
    blobs = BlobStore(place, LocalKeys(key))
    assert await asyncio.gather(*(blobs.put(DATA) for _ in range(8))) == [NAME] * 8
    assert [found.name for found in place.list("")] == [OBJECT]
    assert await blobs.get(NAME) == DATA


@pytest.mark.parametrize("start", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 6])
async def test_bytes_are_read_from_an_offset(place: Place, key: Path, start: int):
    """Without what comes before."""
    data = os.urandom(2 * CHUNK + 7)
    blobs = BlobStore(place, LocalKeys(key))
    assert await read(blobs, await blobs.put(data), start) == data[start:]


async def test_nothing_is_behind_the_end(place: Place, key: Path):
    """Also of an empty blob."""
    blobs = BlobStore(place, LocalKeys(key))
    assert await read(blobs, await blobs.put(DATA), len(DATA)) == b""
    assert await read(blobs, await blobs.put(b""), 0) == b""


@pytest.mark.refuses("DATA_DAMAGED")
async def test_missing_blob_is_named(place: Place, key: Path):
    """An unknown digest is not an empty blob."""
    with pytest.raises(BlobMissing, match=NAME.hex()) as refusal:
        await BlobStore(place, LocalKeys(key)).get(NAME)
    assert (refusal.value.reason, refusal.value.metadata) == (
        "DATA_DAMAGED",
        {"sha256": NAME.hex()},
    )


async def test_no_byte_of_a_blob_can_be_changed(tmp_path: Path):
    """At every position: whole or in pieces, other bytes are never returned."""
    blobs = blobs_in(tmp_path / "blobs")
    sha256 = await blobs.put(b"a small model")
    file = the_file(tmp_path / "blobs")
    good = file.read_bytes()
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(BlobDamaged):
            await blobs.get(sha256)
        with pytest.raises(BlobDamaged):
            await read(blobs, sha256, 0)


@pytest.mark.parametrize("change", ["empty", "cut", "grown", "plain"])
async def test_damaged_blob_is_never_returned(place: Place, key: Path, change: str):
    """Cut off, grown, or not encrypted at all, as something else may have written it."""
    blobs = BlobStore(place, LocalKeys(key))
    await blobs.put(DATA)
    stored = place.get(OBJECT, length=2 * len(DATA))
    damaged = {"empty": b"", "cut": stored[:-1], "grown": stored + b"x", "plain": DATA}[change]
    place.put(OBJECT, damaged, replace=True)
    with pytest.raises(BlobDamaged):
        await blobs.get(NAME)


async def test_blob_under_another_name_is_not_taken_for_it(place: Place, key: Path):
    """Two good blobs that changed places."""
    blobs = BlobStore(place, LocalKeys(key))
    await blobs.put(DATA)
    other = await blobs.put(b"other")
    stored = place.get(f"{other.hex()[:2]}/{other.hex()}", length=10_000)
    place.put(OBJECT, stored, replace=True)
    with pytest.raises(BlobDamaged, match="another name"):
        await blobs.get(NAME)
    with pytest.raises(BlobDamaged, match="another name"):
        await read(blobs, NAME, 0)


async def test_putting_a_damaged_blob_again_repairs_it(place: Place, key: Path):
    """What is there is checked before it is believed."""
    blobs = BlobStore(place, LocalKeys(key))
    await blobs.put(DATA)
    place.put(OBJECT, b"damaged", replace=True)
    await blobs.put(DATA)
    assert await blobs.get(NAME) == DATA


async def test_blob_of_another_key_is_locked_and_left_alone(place: Place, tmp_path: Path):
    """A server with the wrong key file neither reads nor replaces what the right one can."""
    right = BlobStore(place, LocalKeys(key_file(tmp_path / "right")))
    wrong = BlobStore(place, LocalKeys(key_file(tmp_path / "wrong")))
    await right.put(DATA)
    for refused in (wrong.get(NAME), wrong.put(DATA)):
        with pytest.raises(BlobLocked, match="is not here"):
            await refused
    assert await right.get(NAME) == DATA


async def test_blobs_of_an_older_key_are_read_after_its_rotation(place: Place, key: Path):
    """And new ones are wrapped by the newest."""
    before = BlobStore(place, LocalKeys(key))
    await before.put(DATA)
    with key.open("ab") as keys:
        keys.write(os.urandom(32))
    after = BlobStore(place, LocalKeys(key))
    assert before.key_id != after.key_id
    assert await after.get(NAME) == DATA
    sha256 = await after.put(b"new")
    assert await before.get(sha256) == b"new"


async def test_data_keys_come_from_kms(place: Place, endpoint: str, new_key):
    """With the digest as encryption context, in both directions."""
    blobs = BlobStore(place, AwsKms(new_key(), endpoint=endpoint))
    assert await blobs.get(await blobs.put(DATA)) == DATA
    other = BlobStore(place, AwsKms(new_key(), endpoint=endpoint))
    # KMS finds the key by what is written in the envelope, as long as we may use it.
    assert await other.get(NAME) == DATA


async def test_too_many_bytes_are_refused(tmp_path: Path, key: Path):
    """The store is bounded, and writes nothing of what it refuses."""
    with pytest.raises(ValueError):
        await BlobStore(Folder(tmp_path / "blobs"), LocalKeys(key), bytes_max=10).put(DATA)
    assert not (tmp_path / "blobs").exists()


async def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A broken disk leaves neither a blob nor a temporary file behind."""
    blobs = blobs_in(tmp_path / "blobs")

    def broken(handle: int) -> None:
        raise OSError("input/output error")

    (tmp_path / "blobs" / NAME.hex()[:2]).mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="input/output"):
        await blobs.put(DATA)
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


async def test_name_that_is_no_digest_is_refused(tmp_path: Path):
    """Only 32 bytes can name a blob, so no name can point outside the place."""
    with pytest.raises(ValueError):
        await blobs_in(tmp_path / "blobs").get(b"../../etc/passwd")


async def test_large_model_is_stored_and_read_within_seconds(tmp_path: Path):
    """40 MB in far less than a second each; the bound leaves room for a loaded machine."""
    blobs, data = blobs_in(tmp_path / "blobs"), os.urandom(40_000_000)
    begun = time.perf_counter()
    assert await blobs.get(await blobs.put(data)) == data
    assert time.perf_counter() - begun < 10


def test_refusals_are_of_our_family():
    """So that the door turns each into a status."""
    assert all(issubclass(each, AegisError) for each in (BlobMissing, BlobDamaged, BlobLocked))
