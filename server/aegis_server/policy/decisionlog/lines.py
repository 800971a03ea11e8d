"""The canonical form of decisions: what is hashed, and nearly all of what is sent to Postgres.

A decision is one line of PostgreSQL's COPY text. The same line is made again from a stored row, so
the SHA-256 over the lines of a batch says whether its rows are still those that were written. The
attributes are not part of it, only the digest of their JSON: they may be erased.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from aegis_server.policy.decisionlog.entry import Entry

ALLOW, DENY = 1, 2
# As aegis.v1.Effect and DecisionSource number them.
SOURCES = {"engine": 1, "memory": 2, "redis": 3, "local": 4}
GENESIS = bytes(32)
# Longer ones are not kept: the log is no place for documents.
KEPT_BYTES_MAX = 8192

_SPECIAL = re.compile(r"[\\\n\r\0]")
_ESCAPES = str.maketrans(
    {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\N{REPLACEMENT CHARACTER}"}
)
# Canonical JSON. Every encoder is made once: making one costs more than a short text.
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class Line(NamedTuple):
    """A decision ready to be written, with what is counted of it."""

    text: str
    at: datetime
    allowed: bool
    rule_id: str
    subject: str
    # JSON, where attributes are kept.
    attributes: str | None
    # Its id, where a replica made it.
    reported: str


def line_of(entry: Entry, *, keep: bool) -> Line:
    """Returns the line of a decision; `keep` keeps its attributes beside it."""
    attributes, digest, kept = entry.attributes, NO_ATTRIBUTES, None
    if attributes:
        digest, kept = _digest_and_kept(attributes, keep=keep)
    text = text_of(
        entry.at,
        entry.decision_id,
        ALLOW if entry.allowed else DENY,
        SOURCES[entry.source],
        entry.revision,
        entry.microseconds,
        digest,
        (entry.caller, entry.subject, entry.domain, entry.resource, entry.action, entry.rule_id),
    )
    reported = entry.decision_id if entry.source == "local" else ""
    return Line(text, entry.at, entry.allowed, entry.rule_id, entry.subject, kept, reported)


def text_of(
    at: datetime,
    decision_id: object,
    effect: int,
    source: int,
    revision: int,
    microseconds: int,
    digest: str,
    names: tuple[str, ...],
) -> str:
    """Returns the canonical line; `at` is UTC."""
    joined = "\t".join(names)
    if _SPECIAL.search(joined) is not None or joined.count("\t") != len(names) - 1:
        joined = "\t".join(escaped(name) for name in names)
    return (
        f"{at.isoformat()}\t{decision_id}\t{effect}\t{source}\t{revision}\t{microseconds}"
        f"\t\\\\x{digest}\t{joined}"
    )


def escaped(text: str) -> str:
    """Returns a value as COPY reads it. Postgres has no NUL in texts."""
    return text.translate(_ESCAPES)


def digest_of_lines(texts: Iterable[str]) -> bytes:
    """Returns SHA-256 over lines."""
    return hashlib.sha256("\n".join(texts).encode()).digest()


def chained(prev_chain: bytes, *header: object) -> bytes:
    """Returns SHA-256 over the chain so far and what is said of a batch."""
    said = json.dumps(header, separators=(",", ":"), default=str)
    return hashlib.sha256(b"\x03" + prev_chain + said.encode()).digest()


def digest_of_attributes(text: str) -> str:
    """Returns the digest of attributes as they are kept: 128 bits of BLAKE2b, in hex."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


NO_ATTRIBUTES = digest_of_attributes("{}")


def _digest_and_kept(attributes: Mapping[str, object], *, keep: bool) -> tuple[str, str | None]:
    try:
        text = _canonical(attributes)
    except (TypeError, ValueError):
        # Nothing that came over the wire; whatever it is, the log goes on.
        return digest_of_attributes(repr(attributes)), None
    kept = text if keep and len(text) <= KEPT_BYTES_MAX else None
    return digest_of_attributes(text), kept
