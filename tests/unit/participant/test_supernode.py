"""The launcher of a SuperNode: which certificate it shows, and which code it takes up."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.superlinks import Grounds

from aegis_participant.supernode import mutual, pinned


class Refused(BaseException):
    pass


def fetch(self: object, request: Any) -> Any:
    return SimpleNamespace(fab=SimpleNamespace(content=request))


def test_an_application_of_the_list_is_handed_over() -> None:
    """By the digest of what came, not of what was announced."""
    fetches = pinned(fetch, [hashlib.sha256(b"good").hexdigest().upper()], Refused)
    assert fetches(None, b"good").fab.content == b"good"


def test_any_other_application_is_refused() -> None:
    """A SuperNode would run whatever it is sent."""
    fetches = pinned(fetch, [hashlib.sha256(b"good").hexdigest()], Refused)
    with pytest.raises(Refused):
        fetches(None, b"bad")


@pytest.mark.parametrize("how", ["context", "file"])
def test_the_certificate_is_shown_however_roots_are_given(how: str, tmp_path: Path) -> None:
    """Flower passes a context or the name of a file."""
    grounds = Grounds(tmp_path)
    site = grounds.site("site0")
    roots: Any = grounds.trusting() if how == "context" else str(grounds.roots)
    seen: dict[str, Any] = {}
    connect = mutual(lambda _self, **options: seen.update(options), site.certificate, site.key)
    connect(object(), verify=roots, timeout=3.0)
    assert isinstance(seen["verify"], ssl.SSLContext)
    assert seen["verify"].verify_mode == ssl.CERT_REQUIRED
    assert seen["timeout"] == 3.0
