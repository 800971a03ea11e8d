"""Keys that wrap other keys."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber
from tests.blobs import key_file

from aegis.errors import Unavailable
from aegis_server.objects.keys import KeyMissing, LocalKeys, WrapDamaged, Wrapping
from aegis_server.objects.kms import AwsKms

ONE, OTHER = hashlib.sha256(b"one").digest(), hashlib.sha256(b"other").digest()


@pytest.fixture(params=["local", "kms"])
def wrapping(request: pytest.FixtureRequest, tmp_path: Path) -> Wrapping:
    """Of a file, and of KMS."""
    if request.param == "local":
        return LocalKeys(key_file(tmp_path / "key"))
    endpoint: str = request.getfixturevalue("endpoint")
    return AwsKms(request.getfixturevalue("new_key")(), endpoint=endpoint)


def test_data_key_is_fresh_and_unwraps(wrapping: Wrapping):
    """Two of one object have nothing in common."""
    first, second = wrapping.data_key(ONE), wrapping.data_key(ONE)
    assert len(first.plain) == 32
    assert first.plain != second.plain
    assert first.plain not in first.wrapped
    assert wrapping.unwrap(first.wrapped, key_id=first.key_id, sha256=ONE) == first.plain
    assert repr(first.plain) not in repr(first)


def test_wrapped_key_is_of_one_object(wrapping: Wrapping):
    """Moved to another digest it does not open."""
    key = wrapping.data_key(ONE)
    with pytest.raises(WrapDamaged):
        wrapping.unwrap(key.wrapped, key_id=key.key_id, sha256=OTHER)


def test_tampered_wrapped_key_does_not_unwrap(wrapping: Wrapping):
    """Cut off or altered."""
    key = wrapping.data_key(ONE)
    for damaged in (b"", key.wrapped[:-1], key.wrapped[:-1] + bytes([key.wrapped[-1] ^ 1])):
        with pytest.raises((WrapDamaged, Unavailable)):
            wrapping.unwrap(damaged, key_id=key.key_id, sha256=ONE)


def test_newest_local_key_wraps_and_all_unwrap(tmp_path: Path):
    """A key is added behind the others."""
    file = key_file(tmp_path / "key")
    before = LocalKeys(file).data_key(ONE)
    with file.open("ab") as keys:
        keys.write(os.urandom(32))
    keys_now = LocalKeys(file)
    after = keys_now.data_key(ONE)
    assert before.key_id != after.key_id == keys_now.key_id
    for key in (before, after):
        assert keys_now.unwrap(key.wrapped, key_id=key.key_id, sha256=ONE) == key.plain


def test_key_that_another_server_added_is_found(tmp_path: Path):
    """The file is read again for a key that was not in it."""
    file = key_file(tmp_path / "key")
    ours = LocalKeys(file)
    with file.open("ab") as keys:
        keys.write(os.urandom(32))
    theirs = LocalKeys(file).data_key(ONE)
    assert ours.unwrap(theirs.wrapped, key_id=theirs.key_id, sha256=ONE) == theirs.plain


@pytest.mark.parametrize("damage", ["gone", "half written"])
def test_file_that_cannot_be_read_again_takes_no_key_away(tmp_path: Path, damage: str):
    """What the server has read still opens, and a key that it has not is missing."""
    file = key_file(tmp_path / "key")
    keys = LocalKeys(file)
    ours = keys.data_key(ONE)
    theirs = LocalKeys(key_file(tmp_path / "theirs")).data_key(ONE)
    file.unlink() if damage == "gone" else file.write_bytes(b"half")
    with pytest.raises(KeyMissing):
        keys.unwrap(theirs.wrapped, key_id=theirs.key_id, sha256=ONE)
    assert keys.unwrap(ours.wrapped, key_id=ours.key_id, sha256=ONE) == ours.plain


def test_local_key_that_is_not_here_is_missing(tmp_path: Path):
    """Which is not the same as damaged."""
    key = LocalKeys(key_file(tmp_path / "theirs")).data_key(ONE)
    with pytest.raises(KeyMissing, match=key.key_id):
        LocalKeys(key_file(tmp_path / "ours")).unwrap(key.wrapped, key_id=key.key_id, sha256=ONE)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_file_that_holds_no_keys_is_refused(tmp_path: Path, length: int):
    """At the start."""
    (tmp_path / "key").write_bytes(bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        LocalKeys(tmp_path / "key")


def test_alias_that_moved_on_still_opens_what_was_wrapped(
    kms: Any,
    endpoint: str,
    new_key: Callable[[], str],
):
    """The object names the key, not the alias: so KMS keys are rotated."""
    old, new = new_key(), new_key()
    kms.create_alias(AliasName="alias/aegis-test", TargetKeyId=old)
    wrapping = AwsKms("alias/aegis-test", endpoint=endpoint)
    before = wrapping.data_key(ONE)
    kms.update_alias(AliasName="alias/aegis-test", TargetKeyId=new)
    after = wrapping.data_key(ONE)
    assert (before.key_id, after.key_id) == (old, new)
    assert wrapping.unwrap(before.wrapped, key_id=before.key_id, sha256=ONE) == before.plain


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("DisabledException", KeyMissing),
        ("KMSInvalidStateException", KeyMissing),
        ("AccessDeniedException", KeyMissing),
        ("IncorrectKeyException", WrapDamaged),
        ("ThrottlingException", Unavailable),
    ],
)
def test_what_kms_answers_is_told_apart(endpoint: str, code: str, expected: type[Exception]):
    """A key that is not ours to use, a damaged one, and an outage; the stand-in gives no such."""
    wrapping = AwsKms("alias/a", endpoint=endpoint)
    with Stubber(wrapping._client) as kms:
        kms.add_client_error("decrypt", code)
        with pytest.raises(expected, match=code):
            wrapping.unwrap(b"wrapped", key_id="alias/a", sha256=ONE)


def test_unknown_kms_key_is_missing(endpoint: str, new_key: Callable[[], str]):
    """Of an account of nobody."""
    key = AwsKms(new_key(), endpoint=endpoint).data_key(ONE)
    unknown = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
    with pytest.raises(KeyMissing):
        AwsKms(unknown, endpoint=endpoint).data_key(ONE)
    with pytest.raises(KeyMissing):
        AwsKms(unknown, endpoint=endpoint).unwrap(key.wrapped, key_id=unknown, sha256=ONE)


@pytest.mark.refuses("STORAGE_UNAVAILABLE")
def test_service_of_keys_that_is_away_is_unavailable(endpoint: str):
    """Nobody listens at port 9; an outage is no damage."""
    wrapping = AwsKms("alias/a", endpoint="http://127.0.0.1:9")
    with pytest.raises(Unavailable) as refusal:
        wrapping.data_key(ONE)
    assert refusal.value.reason == "STORAGE_UNAVAILABLE"
