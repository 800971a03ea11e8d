"""How fields of records are read: what is missing or odd is left out, never guessed."""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import UTC, datetime

from aegis.v1 import audit_pb2

_REASON = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?(e[+-]?[0-9]{1,3})?")


def time_of(record: audit_pb2.AuditRecord) -> datetime:
    """Returns when it was written."""
    try:
        return record.time.ToDatetime(UTC)
    except (OverflowError, ValueError):
        return datetime.min.replace(tzinfo=UTC)


def reason_of(record: audit_pb2.AuditRecord) -> str:
    """Returns the name of an error; sentences, which a person may have written, are left out."""
    return record.reason if _REASON.fullmatch(record.reason) else ""


def number_of(record: audit_pb2.AuditRecord, name: str) -> float | None:
    """Returns a detail that is a number."""
    text = record.details.get(name, "")
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


def evidence_of(record: audit_pb2.AuditRecord, name: str) -> bytes:
    """Returns a piece of evidence, or nothing."""
    return next((piece.content for piece in record.evidence if piece.name == name), b"")


def tally(counter: Counter[str]) -> list[tuple[str, int]]:
    """Returns names and counts, the most frequent first, equal ones by name."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))
