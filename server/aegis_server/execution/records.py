"""What the audit log keeps of an action, and what the policy is asked about it."""

from __future__ import annotations

import hashlib

from aegis.envelope import OpenedRequest
from aegis.errors import AegisError
from aegis.serving.auditlog import Entry
from aegis.spiffe import Caller
from aegis.v1 import audit_pb2, envelope_pb2, execution_pb2
from aegis_server.access import DOMAIN
from aegis_server.execution.dispatch import Outcome
from aegis_server.execution.store import StoredAction
from aegis_server.policy.decisions import Decision, Question

_KINDS = {
    "restart_pod": "pods",
    "scale_deployment": "deployments",
    "rollback_deployment": "deployments",
}


def verb_of(spec: envelope_pb2.ActionSpec) -> str:
    """Returns the action as policies write it, e.g. `restart_pod`."""
    return str(spec.WhichOneof("action"))


def resource_of(spec: envelope_pb2.ActionSpec) -> str:
    """Returns the canonical path of what the action touches."""
    target = spec.target
    kind = _KINDS[verb_of(spec)]
    return f"/clusters/{target.cluster}/namespaces/{target.namespace}/{kind}/{target.name}"


def question_of(opened: OpenedRequest) -> Question:
    """Returns what the policy is asked: may the issuer do this, with these attributes?"""
    spec = opened.spec
    attributes: dict[str, object] = {
        "cluster": spec.target.cluster,
        "namespace": spec.target.namespace,
        "name": spec.target.name,
        "request": dict(opened.request.attributes),
    }
    if verb_of(spec) == "scale_deployment":
        attributes["replicas"] = spec.scale_deployment.replicas
    return Question(opened.request.issuer, DOMAIN, resource_of(spec), verb_of(spec), attributes)


def refused(caller: Caller, refusal: AegisError) -> Entry:
    """A request that never became an action."""
    return Entry(
        kind=audit_pb2.AUDIT_KIND_ACTION,
        actor=caller.subject,
        action="submit",
        resource="/execution/actions",
        outcome="refused",
        reason=refusal.reason,
        subject_id=refusal.metadata.get("action_id", ""),
    )


def decided(action: StoredAction, decision: Decision) -> Entry:
    """An action before anything is done, with the exact bytes that were signed."""
    spec = envelope_pb2.ActionSpec.FromString(action.spec)
    return Entry(
        kind=audit_pb2.AUDIT_KIND_ACTION,
        actor=action.issuer,
        action=verb_of(spec),
        resource=resource_of(spec),
        outcome="dispatched" if decision.allowed else "denied",
        reason=action.reason,
        policy_revision=decision.revision,
        rule_id=decision.rule_id,
        subject_id=action.action_id,
        details={"request_id": str(action.request_id), "decision_id": decision.decision_id},
        evidence={"decision": action.decision_envelope} if action.decision_envelope else {},
        # Its reason is free text.
        attachments={"request": action.request_envelope},
    )


def ended(action: StoredAction, outcome: Outcome, server: str) -> Entry:
    """How it ended, with what the executor saw."""
    spec = envelope_pb2.ActionSpec.FromString(action.spec)
    state = execution_pb2.Action.State.Name(outcome.state).removeprefix("STATE_").lower()
    return Entry(
        kind=audit_pb2.AUDIT_KIND_ACTION,
        actor=server,
        action=verb_of(spec),
        resource=resource_of(spec),
        outcome=state,
        reason=outcome.reason,
        subject_id=action.action_id,
        details={
            **outcome.observations,
            "request_sha256": hashlib.sha256(action.request_envelope).hexdigest(),
        },
    )
