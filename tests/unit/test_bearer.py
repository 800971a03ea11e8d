"""API keys on the client's side: where they come from, and what never shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aegis.bearer import ApiKey, _FromFile

ROOTS = Path("ca.crt")


def shown(plugin: _FromFile) -> str:
    """The authorization that goes with the next call."""
    found: list[Any] = []
    plugin(None, lambda metadata, error: found.append(metadata))  # type: ignore[arg-type]
    return dict(found[0])["authorization"]


def test_file_wins_over_the_text_of_the_environment():
    """And without either there is no key."""
    both = {"AEGIS_API_KEY_FILE": "/key", "AEGIS_API_KEY": "aegis_a_b"}
    assert ApiKey.from_environment(ROOTS, both) == ApiKey(ROOTS, Path("/key"))
    text = {"AEGIS_API_KEY_FILE": "", "AEGIS_API_KEY": "aegis_a_b"}
    assert ApiKey.from_environment(ROOTS, text) == ApiKey(ROOTS, text="aegis_a_b")
    assert ApiKey.from_environment(ROOTS, {}) is None


def test_key_is_in_no_repr():
    """A traceback shows where it comes from only."""
    assert "aegis_a_b" not in repr(ApiKey(ROOTS, text="aegis_a_b"))


def test_replaced_file_counts_for_the_next_call(tmp_path: Path):
    """A file that is gone or makes no sense leaves the last key in place."""
    file = tmp_path / "key"
    file.write_text("one\n")
    plugin = _FromFile(file)
    assert shown(plugin) == "Bearer one"
    (tmp_path / "new").write_text("second")
    (tmp_path / "new").replace(file)
    assert shown(plugin) == "Bearer second"
    for content in (b"", b"\xff\xfe", b"a\nb"):
        file.write_bytes(content)
        assert shown(plugin) == "Bearer second"
    file.unlink()
    assert shown(plugin) == "Bearer second"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"two\nlines", "schlüssel".encode()])
def test_what_is_no_key_is_refused_without_being_shown(tmp_path: Path, content: bytes):
    """At the start, where somebody sees it."""
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "ca.crt").write_bytes(b"")
    with pytest.raises(ValueError, match="holds no API key") as refusal:
        ApiKey(tmp_path / "ca.crt", tmp_path / "key").credentials()
    assert "two" not in str(refusal.value)
    with pytest.raises(ValueError, match="AEGIS_API_KEY holds no API key"):
        ApiKey(tmp_path / "ca.crt", text=content.decode(errors="replace")).credentials()


def test_missing_file_is_named(tmp_path: Path):
    """Like a missing certificate."""
    (tmp_path / "ca.crt").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ApiKey(tmp_path / "ca.crt", tmp_path / "nowhere").credentials()
