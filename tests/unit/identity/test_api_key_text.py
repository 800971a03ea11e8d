"""The text of an API key: what is one, what is not, and what it gives away."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.errors import Unauthenticated
from aegis_server.identity.machines.keytext import KeyText, new_key, parse


def check_of(text: str) -> str:
    with pytest.raises(Unauthenticated) as refusal:
        parse(text)
    assert refusal.value.reason == "TOKEN_INVALID"
    return refusal.value.metadata["check"]


def test_key_is_read_as_it_was_written():
    """And has the form that scanners look for."""
    key = new_key()
    assert parse(key.text()) == key
    assert re.fullmatch(r"aegis_[a-z2-7]{12}_[0-9A-Za-z]{49}", key.text())
    assert len(key.digest) == 32
    assert new_key() != key


def test_secret_is_in_no_repr():
    """A log or a traceback shows the public part only."""
    key = new_key()
    assert key.secret not in repr(key)
    assert key.key_id in repr(key)


@given(st.integers(min_value=19, max_value=67), st.sampled_from("0Aaz"))
def test_every_typo_in_the_secret_is_noticed(position: int, character: str):
    """Without asking anybody."""
    text = new_key().text()
    if text[position] != character:
        assert check_of(text[:position] + character + text[position + 1 :]) == "checksum"


@given(st.text() | st.from_regex(r"aegis_[a-z2-7_]*_[0-9A-Za-z\n]*"))
def test_any_other_text_is_refused(text: str):
    """Whatever it is, it is an answer and not an error of ours."""
    assert check_of(text) in ("form", "checksum")


@pytest.mark.parametrize("cut", [-1, -6, -49])
def test_half_a_key_is_refused(cut: int):
    """As is one with a line break behind it, or a piece of another."""
    key = new_key()
    assert check_of(key.text()[:cut]) == "form"
    assert check_of(key.text() + "\n") == "form"
    assert check_of(key.text().replace(key.key_id, new_key().key_id)) == "checksum"


def test_checksum_depends_on_the_id():
    """The same secret under another id is another key."""
    key = new_key()
    other = KeyText("a" * 12, key.secret)
    assert other.text()[-6:] != key.text()[-6:]
    assert other.digest == key.digest
