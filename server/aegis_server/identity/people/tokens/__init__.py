"""Opaque tokens: 256 random bits that a person holds, of which we keep the SHA-256 alone."""

from __future__ import annotations

import hashlib
import secrets


def new_token() -> str:
    """Returns a token nobody can guess, so that its plain digest tells nothing either."""
    return secrets.token_urlsafe(32)


def digest_of(token: str) -> bytes:
    """Returns what is stored, and looked for, instead of a token.

    A look-up by digest needs no comparison in constant time: how far a guess got says nothing
    about the token, whose digest nobody can steer.
    """
    return hashlib.sha256(token.encode()).digest()
