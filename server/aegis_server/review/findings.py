"""What an examiner found, in numbers and in a sentence, and how much it counts.

Every finding carries a strength: 0 is ordinary, 1 is where it alone is enough to reject. A
decisive measure may go beyond 1; a corroborating one ends at 0.75, so that it can only support
what another examiner says as well; an indicative one ends at 0.5 and explains.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

CORROBORATING = 0.75
INDICATIVE = 0.5
_STRENGTH_MAX = 1e6


class Severity(StrEnum):
    """How much a finding counts."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Finding:
    """One measurement; `threshold` is the value where it reaches its full weight."""

    examiner: str
    measure: str
    value: float
    threshold: float
    strength: float
    text: str

    @property
    def severity(self) -> Severity:
        """CRITICAL is enough to reject, WARNING is unusual, INFO ordinary."""
        if self.strength >= 1:
            return Severity.CRITICAL
        return Severity.WARNING if self.strength >= CORROBORATING else Severity.INFO


@dataclass(frozen=True, slots=True)
class Examination:
    """What one examiner has to say about a round of n updates.

    `findings` are those of each update; `features` are numbers for the detector, shape (n,) each,
    by name: comparable between rounds because they are relative to the round.
    """

    findings: list[list[Finding]]
    features: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def decisive(ratio: float) -> float:
    """Returns the strength of a measure at `ratio` of its threshold that may reject alone."""
    return min(max(ratio, 0.0), _STRENGTH_MAX)


def corroborating(ratio: float) -> float:
    """Returns the strength of a measure at `ratio` of its threshold that may not."""
    return CORROBORATING * min(max(ratio, 0.0), 1.0)


def indicative(ratio: float) -> float:
    """Returns the strength of a measure that neither alone nor with another may."""
    return INDICATIVE * min(max(ratio, 0.0), 1.0)


def rows(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """Returns findings as JSON objects, for the database."""
    return [
        {
            "examiner": finding.examiner,
            "measure": finding.measure,
            "value": finding.value,
            "threshold": finding.threshold,
            "strength": finding.strength,
            "severity": finding.severity.value,
            "text": finding.text,
        }
        for finding in findings
    ]


def encode(findings: Sequence[Finding]) -> bytes:
    """Returns the canonical JSON that goes into the audit record as evidence.

    Raises ValueError for a number that is not finite.
    """
    return json.dumps(
        rows(findings), allow_nan=False, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def from_rows(stored: Sequence[Mapping[str, object]]) -> tuple[Finding, ...]:
    """Returns the findings that `rows` made these objects of."""
    return tuple(
        Finding(
            examiner=str(row["examiner"]),
            measure=str(row["measure"]),
            value=_number(row["value"]),
            threshold=_number(row["threshold"]),
            strength=_number(row["strength"]),
            text=str(row["text"]),
        )
        for row in stored
    )


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)
