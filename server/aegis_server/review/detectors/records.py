"""What is written down about detectors, and the refusals they have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from aegis.errors import FailedPrecondition, NotFound
from aegis.serving.auditlog import Entry
from aegis.serving.doors import Grant
from aegis.v1 import audit_pb2
from aegis_server.review.detectors.store import StoredDetector

RESOURCE = "/review/detectors"
SERVER = "server:aegis"
BUILTIN = "builtin"
# Honest updates of participants it has not seen: no attack, so only how many it counts out.
HELD_BACK = "none (held-back participants)"
RATES = ("tpr_at_1_fpr", "tpr_at_5_fpr", "auc", "tpr", "fpr")
# No rule allowed what the server does of its own accord.
_BY_ITSELF = Grant()


@dataclass(frozen=True, slots=True)
class Measured:
    """How a detector did against one attack; NaN where a rate is not known."""

    attack: str
    tpr_at_1_fpr: float
    tpr_at_5_fpr: float
    auc: float
    tpr: float
    fpr: float


def rows(measured: Iterable[Measured]) -> list[dict[str, object]]:
    """Returns figures as JSON objects, which have no NaN."""
    return [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(each).items()
        }
        for each in measured
    ]


def from_rows(stored: Sequence[Mapping[str, object]]) -> list[Measured]:
    """Returns the figures that `rows` made these objects of."""
    return [
        Measured(str(each["attack"]), *(_number(each[rate]) for rate in RATES)) for each in stored
    ]


def rates(measured: Sequence[Measured]) -> tuple[float, float]:
    """Returns true- and false-positive rate: means over the attacks, NaN where none is known.

    On held-back participants more honest updates may have been counted out than in the lab; then
    that is the false-positive rate.
    """
    tpr = mean(each.tpr for each in measured if each.attack != HELD_BACK)
    fpr = mean(each.fpr for each in measured if each.attack != HELD_BACK)
    held_back = [each.fpr for each in measured if each.attack == HELD_BACK]
    known = [each for each in (fpr, *held_back) if not math.isnan(each)]
    return tpr, max(known) if known else math.nan


def entry(
    detector: StoredDetector,
    *,
    actor: str,
    action: str,
    outcome: str,
    refused: str = "",
    grant: Grant = _BY_ITSELF,
    details: Mapping[str, str] | None = None,
) -> Entry:
    """Returns the audit entry of something that was done with a detector."""
    tpr, fpr = rates(from_rows(detector.measured))
    told = {name: f"{value:.4f}" for name, value in (("tpr", tpr), ("fpr", fpr)) if value == value}
    if detector.sha256 is not None:
        told["sha256"] = detector.sha256.hex()
    return Entry(
        kind=audit_pb2.AUDIT_KIND_REVIEW,
        actor=actor,
        action=action,
        resource=f"{RESOURCE}/{detector.version}",
        outcome=outcome,
        reason=refused,
        policy_revision=grant.revision,
        rule_id=grant.rule_id,
        subject_id=detector.version,
        details=told | dict(details or {}),
    )


def missing(version: str) -> NotFound:
    """Returns the error that says that no detector has this version."""
    return NotFound("RESOURCE_NOT_FOUND", f"there is no detector {version}", resource=version)


def conflict(detector: StoredDetector) -> FailedPrecondition:
    """Returns the error that says the state a detector is in forbids this."""
    return FailedPrecondition(
        "STATE_CONFLICT",
        f"{detector.version} is {detector.state.upper()}",
        resource=detector.version,
        state=detector.state.upper(),
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def mean(values: Iterable[float]) -> float:
    """Returns the mean of what is known; NaN when nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
