"""A question to the policy, and the digest under which its answer is kept."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Question(NamedTuple):
    """May this subject do this to that?

    `attributes` are what conditions read as ctx.NAME; `roles` are what the subject has beside the
    rules, filled in by `Decisions` from the directory. A tuple, since it is made for every answer.
    """

    subject: str
    domain: str
    resource: str
    action: str
    attributes: Mapping[str, object] = MappingProxyType({})
    roles: tuple[str, ...] = ()


def digest_of(*parts: object) -> str:
    """Returns 128 bits in hex that two different sequences of values do not share.

    Every value carries its type and its length, so that 1, 1.0, "1" and true stay apart, and no
    text can pretend to be the end of another.
    """
    encoded = bytearray()
    _feed(encoded, parts)
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def _feed(out: bytearray, value: object) -> None:
    match value:
        case None | bool():
            out += {None: b"n", True: b"t", False: b"f"}[value]
        case str():
            text = value.encode("utf-8", "surrogatepass")
            out += b"s%d:%b" % (len(text), text)
        case int():
            out += b"i%d;" % value
        case float():
            out += b"d" + struct.pack(">d", value)
        case list() | tuple():
            out += b"l%d;" % len(value)
            for item in value:
                _feed(out, item)
        case Mapping():
            out += b"m%d;" % len(value)
            for name in sorted(value):
                _feed(out, name)
                _feed(out, value[name])
        case _:
            raise TypeError(f"an attribute of type {type(value).__name__} has no digest")
