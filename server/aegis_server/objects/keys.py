"""Keys that wrap other keys: of a file on this machine, or of AWS KMS.

The data key of an object is wrapped for the digest of that object: moved to another object, it does
not unwrap.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEY = 32
_NONCE = 12
_PURPOSE = b"aegis object key 1\0"


class KeyMissing(Exception):
    """The key that wraps this is not here, or we may not use it."""


class WrapDamaged(Exception):
    """The wrapped key is not as it was wrapped, or belongs to another object."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A fresh key of 256 bits for one object, and itself wrapped."""

    plain: bytes = field(repr=False)
    wrapped: bytes
    key_id: str


class Wrapping(Protocol):
    """Makes data keys and unwraps them. Calls may block."""

    @property
    def key_id(self) -> str:
        """Which key wraps from now on."""
        ...

    def data_key(self, sha256: bytes) -> DataKey:
        """Returns a new key for the object with this digest.

        Raises `KeyMissing` or `Unavailable` (STORAGE_UNAVAILABLE).
        """
        ...

    def unwrap(self, wrapped: bytes, *, key_id: str, sha256: bytes) -> bytes:
        """Returns the data key of that object.

        Raises `KeyMissing`, `WrapDamaged` or `Unavailable` (STORAGE_UNAVAILABLE).
        """
        ...


class LocalKeys:
    """Keys of 32 random bytes each, one behind the other in a file; the last one wraps.

    A key is added with `head -c 32 /dev/urandom >> FILE`. One that another server added is found
    when the first object that it wraps is opened.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._keys: dict[str, bytes] = {}
        self._newest = ""
        self._read()

    @property
    def key_id(self) -> str:
        """The last of the file, as we read it."""
        return self._newest

    def data_key(self, sha256: bytes) -> DataKey:
        """See `Wrapping`."""
        plain, nonce, key_id = secrets.token_bytes(_KEY), secrets.token_bytes(_NONCE), self._newest
        wrapped = AESGCM(self._keys[key_id]).encrypt(nonce, plain, _context(key_id, sha256))
        return DataKey(plain, nonce + wrapped, key_id)

    def unwrap(self, wrapped: bytes, *, key_id: str, sha256: bytes) -> bytes:
        """See `Wrapping`."""
        if key_id not in self._keys:
            # What is there now may be gone or half written: what we have read stays good.
            with contextlib.suppress(OSError, ValueError):
                self._read()
        if key_id not in self._keys:
            raise KeyMissing(f"key {key_id} is not here")
        try:
            return AESGCM(self._keys[key_id]).decrypt(
                wrapped[:_NONCE], wrapped[_NONCE:], _context(key_id, sha256)
            )
        except (InvalidTag, ValueError) as error:
            raise WrapDamaged(f"key {key_id} does not unwrap this") from error

    def _read(self) -> None:
        data = self._file.read_bytes()
        if not data or len(data) % _KEY:
            raise ValueError(f"{self._file} does not hold keys of {_KEY} bytes")
        keys = [data[start : start + _KEY] for start in range(0, len(data), _KEY)]
        self._keys = {_name(key): key for key in keys}
        self._newest = _name(keys[-1])


def _name(key: bytes) -> str:
    return "local:" + hashlib.sha256(b"aegis object key id\0" + key).hexdigest()[:16]


def _context(key_id: str, sha256: bytes) -> bytes:
    return _PURPOSE + sha256 + key_id.encode()
