"""Who may call what: one line for every method of every service.

A method that is not in the table is refused, and a test compares the table with the descriptors.
The decision itself is the policy's, like every other decision.
"""

from __future__ import annotations

from typing import NamedTuple

from aegis.errors import PermissionDenied
from aegis.serving.doors import Grant
from aegis.spiffe import Caller
from aegis.v1 import audit_pb2
from aegis_server.audit.log import AuditLog, Entry
from aegis_server.policy.decisions import Decisions, Question

DOMAIN = "aegis"


class Needs(NamedTuple):
    """The permission a method needs."""

    resource: str
    action: str


# None: every peer with a certificate of the trust domain.
ACCESS: dict[str, Needs | None] = {
    "/aegis.v1.IdentityService/WhoAmI": None,
    "/aegis.v1.IdentityService/ListSigningKeys": Needs("/identity/keys", "read"),
    "/aegis.v1.PolicyService/Evaluate": Needs("/policy", "evaluate"),
    "/aegis.v1.PolicyService/BatchEvaluate": Needs("/policy", "evaluate"),
    "/aegis.v1.PolicyService/GetPolicy": Needs("/policy", "read"),
    "/aegis.v1.PolicyService/ImportPolicy": Needs("/policy", "write"),
    "/aegis.v1.TrainingService/StartRun": Needs("/training/runs", "submit"),
    "/aegis.v1.TrainingService/WatchRun": Needs("/training/runs", "read"),
    "/aegis.v1.TrainingService/StopRun": Needs("/training/runs", "stop"),
    "/aegis.v1.TrainingService/GetRun": Needs("/training/runs", "read"),
    "/aegis.v1.TrainingService/ListRuns": Needs("/training/runs", "read"),
    "/aegis.v1.CoordinatorService/GetAssignment": Needs("/training/runs", "coordinate"),
    "/aegis.v1.CoordinatorService/CompleteRound": Needs("/training/runs", "coordinate"),
    "/aegis.v1.CoordinatorService/FinishRun": Needs("/training/runs", "coordinate"),
    "/aegis.v1.ReviewService/SubmitUpdate": Needs("/review/updates", "submit"),
    "/aegis.v1.ReviewService/ReviewRound": Needs("/review/updates", "judge"),
    "/aegis.v1.ReviewService/GetUpdate": Needs("/review/updates", "read"),
    "/aegis.v1.ReviewService/ListUpdates": Needs("/review/updates", "read"),
    "/aegis.v1.ExecutionService/SubmitAction": Needs("/execution/actions", "submit"),
    "/aegis.v1.ExecutionService/GetAction": Needs("/execution/actions", "read"),
    "/aegis.v1.ExecutionService/ListActions": Needs("/execution/actions", "read"),
    "/aegis.v1.AuditService/ListAuditRecords": Needs("/audit", "read"),
    "/aegis.v1.AuditService/ExportAuditRecords": Needs("/audit", "export"),
    "/aegis.v1.AuditService/GetAuditHead": Needs("/audit", "read"),
}

SERVICES = tuple(sorted({method.split("/")[1] for method in ACCESS}))

# Evaluate records one DECISION for each answer, which carries the caller's own grant.
_RECORDED_BY_HANDLER = frozenset(
    {"/aegis.v1.PolicyService/Evaluate", "/aegis.v1.PolicyService/BatchEvaluate"}
)


class Access:
    """Admits callers to methods, and records that it did or did not."""

    def __init__(self, decisions: Decisions, audit: AuditLog) -> None:
        self._decisions = decisions
        self._audit = audit

    async def admit(self, method: str, caller: Caller) -> Grant:
        """Returns the grant; raises `PermissionDenied` (POLICY_DENIED) without one."""
        needs = ACCESS.get(method, Needs(method, "call"))
        if needs is None:
            return Grant()
        decision = await self._decisions.decide(
            Question(caller.subject, DOMAIN, needs.resource, needs.action)
        )
        if not decision.allowed or method not in _RECORDED_BY_HANDLER:
            await self._audit.record(
                Entry(
                    kind=audit_pb2.AUDIT_KIND_ACCESS,
                    actor=caller.subject,
                    action=needs.action,
                    resource=needs.resource,
                    outcome="allow" if decision.allowed else "deny",
                    policy_revision=decision.revision,
                    rule_id=decision.rule_id,
                    subject_id=decision.decision_id,
                    details={"method": method},
                )
            )
        if not decision.allowed:
            raise denied(caller.subject, needs.resource, needs.action, decision.rule_id)
        return Grant(decision.revision, decision.rule_id)


def denied(subject: str, resource: str, action: str, rule_id: str) -> PermissionDenied:
    """Returns the error that says who may not do what, and which rule said so."""
    by = f"by rule {rule_id}" if rule_id else "because no rule allows it"
    return PermissionDenied(
        "POLICY_DENIED",
        f"{subject} may not {action} {resource}: denied {by}",
        subject=subject,
        resource=resource,
        action=action,
        rule_id=rule_id,
    )
