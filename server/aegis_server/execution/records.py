"""What the audit log keeps of an action, and what the policy is asked about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from aegis.envelope import OpenedRequest
from aegis.errors import AegisError
from aegis.serving.auditlog import Entry
from aegis.v1 import audit_pb2, envelope_pb2
from aegis_server.access import DOMAIN
from aegis_server.execution.approvals.counting import read_demands
from aegis_server.execution.approvals.store import Word
from aegis_server.execution.states import S, name_of
from aegis_server.execution.store import StoredAction
from aegis_server.policy.decisions import Question

ACTIONS = "/execution/actions"
EXECUTION = "/execution"

_KINDS = {
    "restart_pod": "pods",
    "restart_rollout": "deployments",
    "scale_deployment": "deployments",
    "rollback_deployment": "deployments",
    "cordon_node": "nodes",
    "uncordon_node": "nodes",
}
VERBS = frozenset(_KINDS)


def verb_of(spec: envelope_pb2.ActionSpec) -> str:
    """Returns the action as policies write it, e.g. `restart_pod`."""
    return str(spec.WhichOneof("action"))


def resource_of(spec: envelope_pb2.ActionSpec) -> str:
    """Returns the canonical path of what the action touches.

    A path that names an object of another kind than the action's would be decided by the wrong
    rules: a node has no namespace, and everything else has one, which `fault_of_place` checks.
    """
    target = spec.target
    kind = _KINDS[verb_of(spec)]
    if kind == "nodes":
        return f"/clusters/{target.cluster}/nodes/{target.name}"
    return f"/clusters/{target.cluster}/namespaces/{target.namespace}/{kind}/{target.name}"


def fault_of_place(spec: envelope_pb2.ActionSpec) -> str:
    """Returns what is wrong with the namespace of a target, or an empty text."""
    if _KINDS[verb_of(spec)] == "nodes":
        return "a node has no namespace" if spec.target.namespace else ""
    return "" if spec.target.namespace else "the target needs a namespace"


def question_about(
    spec: envelope_pb2.ActionSpec, subject: str, attributes: Mapping[str, str]
) -> Question:
    """Returns what the policy is asked: may they do this, with these attributes?"""
    told: dict[str, object] = {
        "cluster": spec.target.cluster,
        "namespace": spec.target.namespace,
        "name": spec.target.name,
        "request": dict(attributes),
    }
    if verb_of(spec) == "scale_deployment":
        told["replicas"] = spec.scale_deployment.replicas
    return Question(subject, DOMAIN, resource_of(spec), verb_of(spec), told)


def question_of(opened: OpenedRequest) -> Question:
    """Returns what the policy is asked about a signed request."""
    return question_about(opened.spec, opened.request.issuer, opened.request.attributes)


def refused(
    actor: str, deed: str, refusal: AegisError, *, resource: str = ACTIONS, about: str = ""
) -> Entry:
    """A call that changed nothing; `about` is the action or pause it named."""
    return Entry(
        kind=audit_pb2.AUDIT_KIND_ACTION,
        actor=actor,
        action=deed,
        resource=resource,
        outcome="refused",
        reason=refusal.reason,
        subject_id=refusal.metadata.get("action_id", about),
    )


def planned(
    spec: envelope_pb2.ActionSpec, actor: str, *, revision: int, rule_id: str, ready: bool
) -> Entry:
    """Somebody looked what an action would do."""
    return Entry(
        kind=audit_pb2.AUDIT_KIND_ACTION,
        actor=actor,
        action=verb_of(spec),
        resource=resource_of(spec),
        outcome="planned",
        policy_revision=revision,
        rule_id=rule_id,
        details={"ready": str(ready).lower()},
    )


def moved(action: StoredAction, actor: str, details: Mapping[str, str], said: str = "") -> Entry:
    """An action in its new state. What was decided comes with the exact bytes that were signed."""
    spec = envelope_pb2.ActionSpec.FromString(action.spec)
    evidence: dict[str, bytes] = {}
    # Reasons are free text, and may have to be erased.
    attachments = {"reason": said.encode()} if said else {}
    told = dict(details)
    if action.state in (S.STATE_DENIED, S.STATE_PENDING_APPROVAL, S.STATE_DISPATCHED):
        told |= _asked(action)
        attachments["request"] = action.request_envelope
        if action.decision_envelope and action.state == S.STATE_DISPATCHED:
            evidence["decision"] = action.decision_envelope
    elif action.has_ended or action.state == S.STATE_APPLIED:
        told |= dict(action.observations)
        told["request_sha256"] = hashlib.sha256(action.request_envelope).hexdigest()
    return Entry(
        kind=audit_pb2.AUDIT_KIND_ACTION,
        actor=actor,
        action=verb_of(spec),
        resource=resource_of(spec),
        outcome=name_of(action.state),
        reason=action.reason,
        policy_revision=action.policy_revision,
        rule_id=action.rule_id,
        subject_id=action.action_id,
        details=told,
        evidence=evidence,
        attachments=attachments,
    )


def _asked(action: StoredAction) -> dict[str, str]:
    told = {"request_id": str(action.request_id)}
    if action.incident_id:
        told["incident_id"] = action.incident_id
    if action.break_glass:
        told["break_glass"] = "true"
    if action.dry_run:
        told["dry_run"] = "true"
    demands = read_demands(action.steps)
    if demands:
        told["steps"] = "; ".join(
            f"{each.step}: {each.needed} of {each.group}{' (own key)' if each.detached else ''}"
            for each in demands
        )
    return told


def glass_broken(action: StoredAction) -> Entry:
    """Somebody went past approvals and guards: a record of its own, so that nobody misses it."""
    spec = envelope_pb2.ActionSpec.FromString(action.spec)
    return Entry(
        kind=audit_pb2.AUDIT_KIND_ACTION,
        actor=action.issuer,
        action="break_glass",
        resource=resource_of(spec),
        outcome="broken",
        policy_revision=action.policy_revision,
        subject_id=action.action_id,
        details={"verb": verb_of(spec)},
    )


def said(action: StoredAction, word: Word) -> Entry:
    """What one person said, with what they, or the server that saw them, signed."""
    spec = envelope_pb2.ActionSpec.FromString(action.spec)
    attachments = {"reason": word.reason.encode()} if word.reason else {}
    if word.envelope is not None:
        # It repeats the reason.
        attachments["approval"] = word.envelope
    return Entry(
        kind=audit_pb2.AUDIT_KIND_ACTION,
        actor=word.approver,
        action={"approval": "approve", "rejection": "reject", "review": "review"}[word.kind],
        resource=resource_of(spec),
        outcome=word.kind,
        subject_id=action.action_id,
        details={
            "step": str(word.step),
            "group": word.group_name,
            "detached": str(word.detached).lower(),
            "action_digest": action.action_digest.hex(),
        },
        attachments=attachments,
    )


def of_pause(
    deed: str, outcome: str, *, actor: str, pause_id: str, scope: Iterable[str], reason: str
) -> Entry:
    """Execution was stopped somewhere, or let go on; what the executor said to it."""
    namespace, verb = scope
    return Entry(
        kind=audit_pb2.AUDIT_KIND_ACTION,
        actor=actor,
        action=deed,
        resource=EXECUTION,
        outcome=outcome,
        subject_id=pause_id,
        details={"namespace": namespace, "action": verb},
        attachments={"reason": reason.encode()} if reason else {},
    )
