"""Bundles of public keys: trusted whole or not at all."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aegis import algorithms, dsse
from aegis.algorithms import PrivateKey, PublicKey, SharedSecret, key_id, public_half
from aegis.errors import Unauthenticated
from aegis.trust import (
    ACTION_REQUEST,
    AUDIT_CHECKPOINT,
    POLICY_DECISION,
    TrustBundle,
    TrustedKey,
    sign_bundle,
    signature_of,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
PUBLIC = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()


def entry(**changes: str | None) -> dict[str, Any]:
    day = timedelta(days=1)
    key = TrustedKey(
        algorithms.key_id(PUBLIC), ACTION_REQUEST, "automation:a", PUBLIC, NOW - day, NOW + day
    )
    return key.to_json() | changes


def bundle(folder: Path, document: object) -> Path:
    path = folder / "trust.json"
    path.write_text(json.dumps(document))
    return path


def test_bundle_comes_back_as_it_was_written(tmp_path: Path):
    """Key id and usage find the key; another usage does not."""
    loaded = TrustBundle.load(bundle(tmp_path, {"keys": [entry()]}))
    assert [key.to_json() for key in loaded.keys] == [entry()]
    assert loaded.finder(ACTION_REQUEST, NOW)(algorithms.key_id(PUBLIC)) is not None
    assert loaded.finder(POLICY_DECISION, NOW)(algorithms.key_id(PUBLIC)) is None


@pytest.mark.parametrize(
    "second", [{"revoked_at": None}, {"usage": POLICY_DECISION}], ids=["revival", "second use"]
)
def test_key_that_is_listed_twice_is_refused(tmp_path: Path, second: dict[str, str | None]):
    """A second entry could lift a revocation, or let who asks decide as well."""
    first = entry(revoked_at=NOW.isoformat())
    path = bundle(tmp_path, {"keys": [first, first | second]})
    with pytest.raises(ValueError, match=r"trust.json: key 1: .* is there already"):
        TrustBundle.load(path)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"keys": None},
        {"keys": ["text"]},
        {"keys": [entry(algorithm="rsa")]},
        {"keys": [entry(usage="anything")]},
        {"keys": [entry(public_key="AAAA")]},
        {"keys": [entry(not_before="2026-01-01T00:00:00")]},
    ],
    ids=str,
)
def test_anything_else_is_refused_by_the_name_of_its_file(tmp_path: Path, document: object):
    """Whoever starts the program reads which file is wrong."""
    with pytest.raises(ValueError, match=r"trust\.json"):
        TrustBundle.load(bundle(tmp_path, document))


ROOT = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"r")
OTHER_ROOT = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"o")
P256 = ec.derive_private_key(7, ec.SECP256R1())
SECRET = SharedSecret(b"s" * 32)
P384 = base64.b64encode(
    ec.derive_private_key(7, ec.SECP384R1())
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()


def of_key(key: PublicKey, **changes: str | None) -> dict[str, Any]:
    """The entry of any kind of key."""
    day = timedelta(days=1)
    owner = "automation:a"
    listed = TrustedKey(key_id(key), ACTION_REQUEST, owner, key, NOW - day, NOW + day)
    return listed.to_json() | changes


def keep_secret(folder: Path, name: str, secret: bytes, mode: int = 0o600) -> Path:
    """A folder of shared secrets with one in it."""
    secrets = folder / "secrets"
    secrets.mkdir()
    file = secrets / name
    file.write_bytes(secret)
    file.chmod(mode)
    return secrets


def test_every_algorithm_verifies_what_its_key_signed(tmp_path: Path):
    """And the bundle says which it is."""
    secrets = keep_secret(tmp_path, key_id(SECRET), SECRET.secret)
    ed25519 = Ed25519PrivateKey.from_private_bytes(bytes(32))
    privates: list[PrivateKey] = [ed25519, P256, SECRET]
    entries = [of_key(public_half(private)) for private in privates]
    loaded = TrustBundle.load(bundle(tmp_path, {"keys": entries}), secrets=secrets)
    assert [key.algorithm for key in loaded.keys] == ["ed25519", "ecdsa-p256", "hmac-sha256"]
    for private in privates:
        envelope = dsse.sign("text/plain", b"payload", private)
        payload, key = dsse.verify(envelope, "text/plain", loaded.finder(ACTION_REQUEST, NOW))
        assert (payload, key.key_id) == (b"payload", key_id(public_half(private)))
        envelope.payload = b"another"
        with pytest.raises(Unauthenticated, match="does not fit"):
            dsse.verify(envelope, "text/plain", loaded.finder(ACTION_REQUEST, NOW))


@pytest.mark.parametrize(
    "entry_",
    [
        of_key(PUBLIC, algorithm="ecdsa-p256"),
        of_key(P256.public_key(), algorithm="ed25519"),
        of_key(P256.public_key(), public_key=P384),
        of_key(P256.public_key(), usage=AUDIT_CHECKPOINT),
        of_key(SECRET, usage=POLICY_DECISION),
        of_key(SECRET, key_id="../../etc/passwd"),
        of_key(SECRET, key_id=None),
    ],
)
def test_key_that_is_not_what_its_record_says_is_refused(tmp_path: Path, entry_: Any):
    """The record decides, and each use allows what it allows."""
    with pytest.raises(ValueError, match=r"trust\.json: key 0: "):
        TrustBundle.load(bundle(tmp_path, {"keys": [entry_]}))


def test_shared_secret_counts_only_where_it_was_given(tmp_path: Path):
    """A bundle names it everywhere; without the folder, or without the file, it is nobody's."""
    path = bundle(tmp_path, {"keys": [of_key(SECRET)]})
    empty = tmp_path / "empty"
    empty.mkdir()
    for secrets in (None, empty):
        loaded = TrustBundle.load(path, secrets=secrets)
        assert loaded.keys[0].algorithm == "hmac-sha256"
        assert loaded.finder(ACTION_REQUEST, NOW)(key_id(SECRET)) is None
        assert loaded.to_json() == TrustBundle.load(path).to_json()


@pytest.mark.parametrize(
    ("secret", "mode", "said"),
    [
        (b"s" * 31, 0o600, "at least 32 bytes"),
        (b"t" * 32, 0o600, "is not the secret of its name"),
        (b"s" * 32, 0o640, "may be read by others"),
    ],
)
def test_shared_secret_that_is_none_is_refused(tmp_path: Path, secret: bytes, mode: int, said: str):
    """Too short, of another key, or not secret."""
    secrets = keep_secret(tmp_path, key_id(SECRET), secret, mode)
    with pytest.raises(ValueError, match=said) as refused:
        TrustBundle.load(bundle(tmp_path, {"keys": [of_key(SECRET)]}), secrets=secrets)
    assert "ssss" not in str(refused.value)


def test_public_key_is_no_secret_to_sign_with():
    """Whoever takes a public key for the secret of an HMAC signs nothing."""
    spki = PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    forged = dsse.sign("text/plain", b"payload", SharedSecret(spki))
    forged.signatures[0].key_id = key_id(PUBLIC)
    day = timedelta(days=1)
    key = TrustedKey(key_id(PUBLIC), ACTION_REQUEST, "automation:a", PUBLIC, NOW - day, NOW + day)
    with pytest.raises(Unauthenticated, match="does not fit"):
        dsse.verify(forged, "text/plain", TrustBundle((key,)).finder(ACTION_REQUEST, NOW))


def test_secret_is_not_shown():
    """Neither by its repr nor by that of what holds it."""
    assert "ssss" not in repr(SECRET)
    assert "ssss" not in repr(TrustedKey("a", "b", "c", SECRET, NOW, NOW))


def signed(folder: Path, root: Ed25519PrivateKey = ROOT) -> Path:
    """A bundle with its signature."""
    path = bundle(folder, {"version": 3, "keys": [entry()]})
    signature_of(path).write_bytes(sign_bundle(path.read_bytes(), root))
    return path


def test_bundle_the_root_signed_is_read(tmp_path: Path):
    """With the version it has."""
    assert TrustBundle.load(signed(tmp_path), root=ROOT.public_key()).version == 3


@pytest.mark.parametrize("damage", ["unsigned", "other root", "altered", "garbage"])
def test_bundle_the_root_did_not_sign_is_refused(tmp_path: Path, damage: str):
    """Whoever can write the file cannot add a key."""
    path = signed(tmp_path, OTHER_ROOT if damage == "other root" else ROOT)
    if damage == "unsigned":
        signature_of(path).unlink()
    elif damage == "altered":
        path.write_text(path.read_text().replace("automation:a", "automation:b"))
    elif damage == "garbage":
        signature_of(path).write_bytes(b"\xff?")
    with pytest.raises(ValueError, match=r"trust\.json is not signed"):
        TrustBundle.load(path, root=ROOT.public_key())
