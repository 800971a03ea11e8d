"""Bundles of public keys: trusted whole or not at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis import dsse
from aegis.trust import ACTION_REQUEST, POLICY_DECISION, TrustBundle, TrustedKey

NOW = datetime(2026, 5, 1, tzinfo=UTC)
PUBLIC = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()


def entry(**changes: str | None) -> dict[str, Any]:
    day = timedelta(days=1)
    key = TrustedKey(
        dsse.key_id(PUBLIC), ACTION_REQUEST, "automation:a", PUBLIC, NOW - day, NOW + day
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
    assert loaded.finder(ACTION_REQUEST, NOW)(dsse.key_id(PUBLIC)) is not None
    assert loaded.finder(POLICY_DECISION, NOW)(dsse.key_id(PUBLIC)) is None


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
