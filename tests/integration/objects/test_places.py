"""Folders and S3 keep the same promises."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from aegis.errors import ResourceExhausted, Unavailable
from aegis_server.objects.folder import Folder
from aegis_server.objects.places import Bucket, Listed, ObjectMissing, Place, parse_place
from aegis_server.objects.s3 import S3


def test_bytes_come_back_whole_and_in_parts(place: Place):
    """A range ends where the object does."""
    assert place.put("a/b.json", b"0123456789")
    assert place.get("a/b.json", length=100) == b"0123456789"
    assert place.get("a/b.json", start=3, length=4) == b"3456"
    assert place.get("a/b.json", start=8, length=4) == b"89"
    assert place.get("a/b.json", start=10, length=4) == b""
    assert place.get("a/b.json", start=0, length=0) == b""


def test_empty_object_is_an_object(place: Place):
    """No bytes are not nothing."""
    assert place.put("empty", b"")
    assert place.get("empty", length=10) == b""


def test_name_that_is_taken_stays_as_it_is(place: Place):
    """The second writer is told, and changes nothing unless it says so."""
    assert place.put("a", b"first")
    assert not place.put("a", b"second")
    assert place.get("a", length=10) == b"first"
    assert place.put("a", b"third", replace=True)
    assert place.get("a", length=10) == b"third"


def test_of_twenty_writers_of_one_name_one_wins(place: Place):
    """Whose bytes are there is who was told so."""
    with ThreadPoolExecutor(20) as writers:
        won = list(writers.map(lambda n: place.put("round", b"%02d" % n * 500), range(20)))
    assert won.count(True) == 1
    assert place.get("round", length=2000) == b"%02d" % won.index(True) * 500
    assert [found.name for found in place.list("")] == ["round"]


def test_unknown_name_is_missing(place: Place):
    """Nothing there is not an empty object; neither is what is below a name."""
    place.put("a", b"x")
    for name in ("b", "a/b"):
        with pytest.raises(ObjectMissing):
            place.get(name, length=10)


def test_list_tells_names_and_sizes_below_a_prefix(place: Place):
    """Siblings whose names begin alike are not below it."""
    for name in ("run-1/site-1/1.json", "run-1/site-2/1.json", "run-10/site-1/1.json"):
        place.put(name, name.encode())
    assert list(place.list("run-1/")) == [
        Listed("run-1/site-1/1.json", 19),
        Listed("run-1/site-2/1.json", 19),
    ]
    assert list(place.list("run-2/")) == []
    assert len(list(place.list(""))) == 3


@pytest.mark.parametrize("name", ["", "/a", "a//b", "../a", "a/../b", ".a", "a\n", "a/", "ä"])
def test_name_that_could_point_elsewhere_is_refused(place: Place, name: str):
    """Neither written nor read."""
    with pytest.raises(ValueError):
        place.put(name, b"x")
    with pytest.raises(ValueError):
        place.get(name, length=1)


def test_only_whole_parts_are_listed(place: Place):
    """A prefix ends with a slash."""
    with pytest.raises(ValueError):
        list(place.list("run-1"))


def test_links_and_pipes_of_others_are_not_followed(tmp_path: Path):
    """Who may write into the folder cannot make us read what it cannot."""
    secret, root = tmp_path / "secret", tmp_path / "objects"
    secret.write_bytes(b"secret")
    root.mkdir()
    (root / "link").symlink_to(secret)
    os.mkfifo(root / "pipe")
    folder = Folder(root)
    for name in ("link", "pipe"):
        with pytest.raises(ObjectMissing):
            folder.get(name, length=10)
    assert list(folder.list("")) == []


def test_what_is_being_written_is_not_listed(tmp_path: Path):
    """Not even what a crash left behind."""
    (tmp_path / ".writing-abc").write_bytes(b"half")
    assert list(Folder(tmp_path).list("")) == []


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "aegis-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.refuses("STORAGE_FULL")
def test_full_disk_leaves_nothing_half_written(tiny: Path):
    """A typed refusal, no file, and room for what fits."""
    folder = Folder(tiny)
    with pytest.raises(ResourceExhausted) as refusal:
        folder.put("large", bytes(100_000))
    assert refusal.value.reason == "STORAGE_FULL"
    assert [path for path in tiny.rglob("*") if path.is_file()] == []
    assert folder.put("small", b"x" * 10_000)


def test_s3_is_told_to_encrypt_with_our_key(bucket: Bucket, endpoint: str, new_key):
    """SSE-KMS, beside our own envelope."""
    key = new_key()
    S3(bucket, endpoint=endpoint, kms_key=key).put("a", b"x")
    head = boto3.client("s3", endpoint_url=endpoint).head_object(
        Bucket=bucket.name, Key=f"{bucket.prefix}a"
    )
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", key)


@pytest.mark.refuses("STORAGE_UNAVAILABLE")
def test_bucket_that_does_not_serve_us_is_unavailable(endpoint: str):
    """Not missing: the object may well be there."""
    nobodys = S3(Bucket("nobodys-bucket", ""), endpoint=endpoint)
    for act in (
        lambda: nobodys.put("a", b"x"),
        lambda: nobodys.get("a", length=1),
        lambda: list(nobodys.list("")),
    ):
        with pytest.raises(Unavailable) as refusal:
            act()
        assert refusal.value.reason == "STORAGE_UNAVAILABLE"
        assert refusal.value.metadata == {"cause": "NoSuchBucket"}


def test_places_are_read_from_settings():
    """A folder or a bucket."""
    assert parse_place("/var/lib/aegis") == Path("/var/lib/aegis")
    assert parse_place("s3://models") == Bucket("models", "")
    assert parse_place("s3://models/a/b/") == Bucket("models", "a/b/")


@pytest.mark.parametrize(
    "text", ["", "models", "http://models", "s3:///a", "s3://u@b/a", "s3://b/a?x", "s3://b/../a"]
)
def test_other_places_are_refused(text: str):
    """At the start, not at the first blob."""
    with pytest.raises(ValueError):
        parse_place(text)
