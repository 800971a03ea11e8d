"""What is written down about golden sets, and how a version is named."""

from __future__ import annotations

from aegis.errors import AegisError, FailedPrecondition, NotFound
from aegis.serving.auditlog import Entry
from aegis.serving.doors import Call
from aegis.v1 import audit_pb2
from aegis_server.review.golden.store import StoredSet

RESOURCE = "/review/golden-sets"


def id_of(golden: StoredSet) -> str:
    """Returns what names a version: data set and number."""
    return f"{golden.dataset}@{golden.version}"


def entry(
    golden: StoredSet,
    by: Call,
    action: str,
    outcome: str,
    *,
    reason: str = "",
    former: str = "",
    refused: str = "",
) -> Entry:
    """Returns the audit entry of something that was done with a version."""
    details = {
        "dataset": golden.dataset,
        "version": str(golden.version),
        "sha256": golden.sha256.hex(),
        "rows": str(golden.row_count),
    }
    if former:
        details["former"] = former
    if reason:
        details["reason"] = reason
    return Entry(
        kind=audit_pb2.AUDIT_KIND_REVIEW,
        actor=by.caller.subject,
        action=action,
        resource=f"{RESOURCE}/{id_of(golden)}",
        outcome=outcome,
        reason=refused,
        policy_revision=by.grant.revision,
        rule_id=by.grant.rule_id,
        subject_id=id_of(golden),
        details=details,
    )


def refused_rows(dataset: str, sha256: bytes, by: Call, refusal: AegisError) -> Entry:
    """Returns the audit entry of rows that were not taken."""
    return Entry(
        kind=audit_pb2.AUDIT_KIND_REVIEW,
        actor=by.caller.subject,
        action="create",
        resource=f"{RESOURCE}/{dataset}",
        outcome="refused",
        reason=refusal.reason,
        policy_revision=by.grant.revision,
        rule_id=by.grant.rule_id,
        details={"dataset": dataset, "sha256": sha256.hex()},
    )


def missing(golden_set_id: str) -> NotFound:
    """Returns the error that says that no version has this name."""
    return NotFound(
        "RESOURCE_NOT_FOUND", f"there is no golden set {golden_set_id}", resource=golden_set_id
    )


def conflict(golden: StoredSet) -> FailedPrecondition:
    """Returns the error that says the state a version is in forbids this."""
    return FailedPrecondition(
        "STATE_CONFLICT",
        f"{id_of(golden)} is {golden.state.upper()}",
        resource=id_of(golden),
        state=golden.state.upper(),
    )
