"""A site's key pair on its disk: whatever a server answers, what is there can be used."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from aegis import sitekeys
from aegis.channel import Identity
from aegis.local.authority import Authority, Names


def _identity(tmp_path: Path) -> tuple[Identity, Authority]:
    authority = Authority.create(tmp_path, datetime.now(UTC), [])
    authority.issue(
        "site", Names("spiffe://aegis.local/participant/a"), datetime.now(UTC), [], days=1
    )
    return Identity(tmp_path / "site.crt", tmp_path / "site.key", tmp_path / "ca.crt"), authority


@pytest.mark.parametrize("answer", ["another key's", "no certificate", "no roots"])
def test_an_answer_that_cannot_be_used_changes_nothing(tmp_path: Path, answer: str) -> None:
    """A site whose roots were emptied would know no server any more, and could never ask again."""
    identity, authority = _identity(tmp_path)
    files = (identity.certificate, identity.key, identity.roots)
    before = [file.read_bytes() for file in files]
    authority.issue(
        "other", Names("spiffe://aegis.local/participant/b"), datetime.now(UTC), [], days=1
    )
    certificate, roots = identity.certificate.read_bytes(), b"-----BEGIN NOTHING-----"
    if answer == "another key's":
        certificate = (tmp_path / "other.crt").read_bytes()
    elif answer == "no certificate":
        certificate = b""
    else:
        (tmp_path / "site.key.next").write_bytes(identity.key.read_bytes())
    with pytest.raises(ValueError, match=r"."):
        sitekeys.take_over(identity, certificate, roots)
    assert [file.read_bytes() for file in files] == before
    identity.check()


def test_without_roots_those_that_are_there_stay(tmp_path: Path) -> None:
    """And the same key is asked for until its certificate is here."""
    identity, _ = _identity(tmp_path)
    roots = identity.roots.read_bytes()
    (tmp_path / "site.key.next").write_bytes(identity.key.read_bytes())
    asked = [sitekeys.next_key(identity).public_key() for _ in range(2)]
    assert asked[0] == asked[1]
    sitekeys.take_over(identity, identity.certificate.read_bytes(), b"")
    assert identity.roots.read_bytes() == roots
    assert not (tmp_path / "site.key.next").exists()
