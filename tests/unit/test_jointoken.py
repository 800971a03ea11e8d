"""Join tokens: read whole, or not at all."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from aegis.jointoken import PREFIX, JoinToken
from aegis.local import pki


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> JoinToken:
    folder: Path = tmp_path_factory.mktemp("home") / "pki"
    pki.ensure(folder)
    return JoinToken("aegis.example.org:8444", (folder / "ca.crt").read_bytes(), bytes(range(32)))


def forged(token: JoinToken, **changes: object) -> str:
    body = token.text().removeprefix(PREFIX)
    content = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    raw = json.dumps(content | changes).encode()
    return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def test_token_is_one_word_and_says_the_same_again(token: JoinToken):
    """White space around it is what a mail adds."""
    text = token.text()
    assert text.startswith("aegis-join-")
    assert JoinToken.parse(f"  {text}\n") == token
    assert len(text.split()) == 1


def test_secret_is_not_in_the_repr(token: JoinToken):
    """Logs and tracebacks show reprs."""
    assert "secret" not in repr(token)


@pytest.mark.parametrize("cut", [5, 30, 200, -1, -40])
def test_token_that_was_not_copied_whole_is_refused(token: JoinToken, cut: int):
    """Without a word of it in the message."""
    text = token.text()[:cut]
    with pytest.raises(ValueError, match="join token") as refusal:
        JoinToken.parse(text)
    assert text[11:] == "" or text[11:] not in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "aegis.example.org"},
        {"address": "a b:1"},
        {"roots": []},
        {"roots": ["AAAA"]},
        {"roots": 7},
        {"secret": "AAAA"},
        {"secret": None},
    ],
    ids=["port", "host", "no-roots", "no-root", "number", "short", "none"],
)
def test_token_that_says_something_else_is_refused(token: JoinToken, changes: dict[str, object]):
    """Address, roots and secret have to be such."""
    with pytest.raises(ValueError, match="no whole join token"):
        JoinToken.parse(forged(token, **changes))
