"""Page tokens: opaque, and good only for the query that handed them out."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json

from aegis.errors import InvalidArgument

DEFAULT_SIZE = 100
MAX_SIZE = 1000


def page_size(requested: int) -> int:
    """Returns the number of rows to read: zero means 100, more than 1,000 means 1,000."""
    return min(requested or DEFAULT_SIZE, MAX_SIZE)


def encode_token(position: int | str, *query: object) -> str:
    """Returns the token that continues `query` behind `position`."""
    body = json.dumps([position, _fingerprint(query)]).encode()
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


def decode_token(token: str, *query: object) -> int | str | None:
    """Returns the position of a token of this query, or None for the first page.

    Raises `InvalidArgument` (PAGE_TOKEN_INVALID) for any other text.
    """
    if not token:
        return None
    try:
        body = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        position, fingerprint = json.loads(body)
        if fingerprint == _fingerprint(query) and _usable(position):
            return position  # type: ignore[no-any-return]
    except (binascii.Error, ValueError, TypeError, RecursionError):
        pass
    raise InvalidArgument("PAGE_TOKEN_INVALID", "this page token is not from this query")


def _usable(position: object) -> bool:
    # Whoever invents a token gets a refusal, not an error of the database (NUL, surrogates).
    return type(position) is int or (type(position) is str and position.isprintable())


def _fingerprint(query: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(query).encode()).hexdigest()[:16]
