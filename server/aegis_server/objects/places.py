"""Where objects are: a name, and bytes under it, in a folder or in S3.

A place knows nothing of what it keeps. Its calls block: who has an event loop makes them in a
thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(rf"{_PART}(?:/{_PART}){{0,7}}")
_PREFIX = re.compile(rf"(?:{_PART}/){{0,7}}")


class ObjectMissing(Exception):
    """Nothing has this name."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A name that is taken, and how many bytes are under it."""

    name: str
    size: int


class Place(Protocol):
    """Names are at most eight parts between slashes; a part begins with a letter or a digit."""

    def put(self, name: str, data: bytes | bytearray, *, replace: bool = False) -> bool:
        """Stores the bytes durably, whole or not at all; False when the name is taken.

        With `replace` nothing is taken. Raises `ResourceExhausted` (STORAGE_FULL) or `Unavailable`
        (STORAGE_UNAVAILABLE).
        """
        ...

    def get(self, name: str, *, start: int = 0, length: int) -> bytes:
        """Returns at most `length` bytes from `start` on, none beyond the end.

        Raises `ObjectMissing` or `Unavailable` (STORAGE_UNAVAILABLE).
        """
        ...

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yields what is below a prefix, which ends with a slash or is empty, by name."""
        ...


def checked_name(name: str) -> str:
    """Returns the name; ValueError for one that could point elsewhere."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name of an object")
    return name


def checked_prefix(prefix: str) -> str:
    """Returns the prefix; ValueError for one that is not whole parts of a name."""
    if _PREFIX.fullmatch(prefix) is None:
        raise ValueError(f"{prefix!r} is no prefix of objects")
    return prefix


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of S3, and what comes before every name in it: empty, or with a slash behind."""

    name: str
    prefix: str


def parse_place(text: str) -> Path | Bucket:
    """Reads "/a/folder" or "s3://bucket/prefix"; raises ValueError for anything else."""
    if text.startswith("/"):
        return Path(text)
    parts = urlsplit(text)
    prefix = parts.path.strip("/")
    prefix = f"{prefix}/" if prefix else ""
    plain = parts.netloc and not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme != "s3" or not plain or _PREFIX.fullmatch(prefix) is None:
        raise ValueError(f"{text!r} is neither an absolute folder nor s3://bucket/prefix")
    return Bucket(parts.netloc, prefix)
