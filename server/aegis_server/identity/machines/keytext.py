"""The text of an API key: aegis_KEYID_SECRET.

The id is public and finds the key; the secret is 256 random bits, of which only the SHA-256 is ever
stored. Six characters at the end are a checksum of all before: a typo costs no look-up, and a
scanner of repositories tells a key from anything that merely looks like one.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field

from aegis_server.identity.tokens import invalid

PREFIX = "aegis_"
KEY_ID = re.compile("[a-z2-7]{12}")

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_CHARACTERS = 43  # 62 ** 43 > 2 ** 256
_CHECKSUM_CHARACTERS = 6  # 62 ** 6 > 2 ** 32
_FORM = re.compile(
    rf"{PREFIX}({KEY_ID.pattern})"
    rf"_([0-9A-Za-z]{{{_SECRET_CHARACTERS}}})([0-9A-Za-z]{{{_CHECKSUM_CHARACTERS}}})"
)


@dataclass(frozen=True, slots=True)
class KeyText:
    """Both parts of a key; the secret is kept out of the repr."""

    key_id: str
    secret: str = field(repr=False)

    @property
    def digest(self) -> bytes:
        """What is stored of the secret."""
        return hashlib.sha256(self.secret.encode()).digest()

    def text(self) -> str:
        """The key as its owner shows it."""
        return f"{PREFIX}{self.key_id}_{self.secret}{_checksum(self.key_id, self.secret)}"


def new_key() -> KeyText:
    """Returns a key that nobody has."""
    key_id = base64.b32encode(secrets.token_bytes(8)).decode().lower()[:12]
    return KeyText(key_id, "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_CHARACTERS)))


def parse(text: str) -> KeyText:
    """Returns the parts of a key; raises `Unauthenticated` (TOKEN_INVALID) for any other text."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise invalid("form", "an API key is aegis_KEYID_SECRET")
    key_id, secret, checksum = match.groups()
    if checksum != _checksum(key_id, secret):
        raise invalid("checksum", "this API key was not copied whole")
    return KeyText(key_id, secret)


def _checksum(key_id: str, secret: str) -> str:
    rest = zlib.crc32(f"{PREFIX}{key_id}_{secret}".encode())
    digits = ""
    for _ in range(_CHECKSUM_CHARACTERS):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
