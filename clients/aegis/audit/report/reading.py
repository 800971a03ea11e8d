"""How fields of records are read: what is missing or odd is left out, never guessed."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from datetime import UTC, datetime

from aegis.v1 import audit_pb2

_REASON = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_COUNT = re.compile(r"[0-9]{1,18}")
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


def count_of(record: audit_pb2.AuditRecord, name: str) -> int:
    """Returns a detail that counts something; zero for what is no count."""
    text = record.details.get(name, "")
    return int(text) if _COUNT.fullmatch(text) else 0


def names_of(record: audit_pb2.AuditRecord) -> dict[str, dict[str, int]]:
    """Returns the counts by name in a summary of decisions; whatever is odd in them is left out."""
    try:
        said = json.loads(evidence_of(record, "counts.json") or "{}")
    except (ValueError, RecursionError):
        return {}
    return {
        group: {name: count for name, count in counts.items() if type(count) is int and count > 0}
        for group, counts in (said.items() if isinstance(said, dict) else ())
        if isinstance(counts, dict)
    }


def evidence_of(record: audit_pb2.AuditRecord, name: str) -> bytes:
    """Returns a piece of evidence, or nothing."""
    return next((piece.content for piece in record.evidence if piece.name == name), b"")


def tally(counter: Counter[str]) -> list[tuple[str, int]]:
    """Returns names and counts, the most frequent first, equal ones by name."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))
