"""Page tokens are good for their own query only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.errors import InvalidArgument
from aegis.serving.pages import decode_token, encode_token, page_size


def test_token_continues_its_own_query():
    """What was encoded comes back, and no token means the first page."""
    assert decode_token(encode_token(42, "audit", [1]), "audit", [1]) == 42
    assert decode_token("", "audit") is None


def test_token_of_another_query_is_refused():
    """A filter cannot change between two pages."""
    with pytest.raises(InvalidArgument) as refusal:
        decode_token(encode_token(42, "audit", [1]), "audit", [2])
    assert refusal.value.reason == "PAGE_TOKEN_INVALID"


@given(st.text(min_size=1, max_size=80))
def test_any_other_text_is_refused(token: str):
    """Invented tokens are a typed refusal, never a crash."""
    with pytest.raises(InvalidArgument) as refusal:
        decode_token(token, "audit")
    assert refusal.value.reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize("position", ["\0", "\ud800", 1.5, True, None, [1]])
def test_token_with_an_impossible_position_is_refused(position: object):
    """Not even a well made token reaches the database with what no database takes."""
    with pytest.raises(InvalidArgument) as refusal:
        decode_token(encode_token(position, "audit"), "audit")  # type: ignore[arg-type]
    assert refusal.value.reason == "PAGE_TOKEN_INVALID"


def test_page_size_is_bounded():
    """Zero means the default; more than the maximum means the maximum."""
    assert [page_size(n) for n in (0, 7, 5000)] == [100, 7, 1000]
