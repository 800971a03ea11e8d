"""What the object itself may have against a remedy, as pure functions on what was read.

Each gate says what it compared, whether it passes or not. An approval opens those that ask for a
person's judgement; a broken glass opens those and the owners' too; nothing opens the protection of
an object, a veto on it, or a disruption budget. Missing input counts against the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aegis.errors import AegisError, FailedPrecondition, PermissionDenied
from aegis_executor.catalogue.base import Gate, Object, Remedy, Seen, Standing
from aegis_executor.catalogue.objects import (
    annotations_of,
    controller_of,
    is_going,
    is_observed,
    is_true,
    labels_of,
    replicas_of,
)
from aegis_executor.catalogue.selectors import selects

# Aegis must never be able to restart Aegis, nor what the cluster itself stands on.
PROTECTED_NAMESPACES = frozenset({"kube-system", "kube-public", "kube-node-lease", "aegis-system"})
PROTECTED = "aegis.dev/protected"
VETO = "aegis.dev/do-not-remediate"

# The label app.kubernetes.io/instance, Argo CD's old default, is set by plain Helm too: where it is
# the only sign, the field manager tells.
_GITOPS_MARKS = {
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "argocd.argoproj.io/instance": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
}
_GITOPS_MANAGERS = {
    "argocd-controller": "Argo CD",
    "argocd-application-controller": "Argo CD",
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
}
_KEDA = "scaledobject.keda.sh/name"


def of(remedy: Remedy, seen: Seen, standing: Standing) -> list[Gate]:
    """Returns every gate of a remedy, in the order they are asked."""
    return [check(remedy, seen, standing) for check in remedy.gates]


def of_undo(undo: Remedy, seen: Seen) -> list[Gate]:
    """Returns the gates of what takes a change back, which nobody has to approve once more.

    A rollout that is under way is our own, whoever changed it since was found before; what is
    paused or going is left alone all the same.
    """
    standing = Standing(approved=True)
    return [(running if check is settled else check)(undo, seen, standing) for check in undo.gates]


def refuse(gates: Iterable[Gate]) -> None:
    """Raises the first gate that does not pass, with its reason and numbers."""
    for gate in gates:
        if not gate.passed:
            raise _error(gate)


def _error(gate: Gate) -> AegisError:
    kind = PermissionDenied if gate.reason == "BOUNDS_EXCEEDED" else FailedPrecondition
    return kind(gate.reason, gate.message, **dict[str, Any](gate.metadata))


def protected(remedy: Remedy, seen: Seen, standing: Standing) -> Gate:
    """TARGET_PROTECTED: by a label on the object or its deployment, or by its namespace."""
    name = "object.protected"
    if remedy.place.namespace in PROTECTED_NAMESPACES:
        return Gate(name, False, "TARGET_PROTECTED", f"{remedy.place.namespace} is never touched")
    if any(_is_set(labels_of(each).get(PROTECTED)) for each in _subjects(seen)):
        return Gate(name, False, "TARGET_PROTECTED", f"it carries the label {PROTECTED}")
    return Gate(name, True, message=f"no label {PROTECTED}")


def vetoed(remedy: Remedy, seen: Seen, standing: Standing) -> Gate:
    """TARGET_VETOED: by an annotation on the object or its deployment."""
    name = "object.veto"
    if any(_is_set(annotations_of(each).get(VETO)) for each in _subjects(seen)):
        return Gate(name, False, "TARGET_VETOED", f"it carries the annotation {VETO}")
    return Gate(name, True, message=f"no annotation {VETO}")


def running(remedy: Remedy, seen: Seen, standing: Standing) -> Gate:
    """TARGET_UNSETTLED: paused, where nothing would roll, or on its way out."""
    state = _stopped(seen)
    return _unsettled(state) if state else Gate("object.settled", True, message="it is not paused")


def settled(remedy: Remedy, seen: Seen, standing: Standing) -> Gate:
    """TARGET_UNSETTLED: as `running`, and in the middle of a rollout."""
    state = _stopped(seen) or (_rolling(seen.live) if seen.live is not None else "missing")
    return _unsettled(state) if state else Gate("object.settled", True, message="nothing rolls")


def gitops(remedy: Remedy, seen: Seen, standing: Standing) -> Gate:
    """GITOPS_OWNED: Argo CD or Flux would undo the change."""
    owner = _gitops_owner(seen.live) if seen.live is not None else ""
    if not owner:
        return Gate("object.gitops", True, message="no GitOps controller owns it")
    message = f"{owner} owns it and would undo the change"
    return _owned("object.gitops", "GITOPS_OWNED", message, owner, standing)


def autoscaled(remedy: Remedy, seen: Seen, standing: Standing) -> Gate:
    """HPA_OWNED: an autoscaler sets the replicas."""
    for autoscaler in seen.autoscalers:
        aim = autoscaler.get("spec", {}).get("scaleTargetRef", {})
        if (aim.get("kind"), aim.get("name")) == ("Deployment", remedy.place.name):
            keda = labels_of(autoscaler).get(_KEDA)
            owner = f"ScaledObject {keda}" if keda else f"HPA {autoscaler['metadata']['name']}"
            message = f"{owner} sets the replicas"
            return _owned("object.autoscaler", "HPA_OWNED", message, owner, standing)
    return Gate("object.autoscaler", True, message="no autoscaler sets the replicas")


def step(remedy: Remedy, seen: Seen, standing: Standing) -> Gate:
    """BOUNDS_EXCEEDED: to nothing never; by more than half (and one) only with an approval."""
    name, after = "object.step", getattr(remedy, "replicas", 0)
    before = replicas_of(seen.live) if seen.live is not None else 0
    limit = max(1, before // 2)
    told = f"from {before} to {after} replicas, by itself at most {limit} at a time"
    if after == 0:
        return Gate(name, False, "BOUNDS_EXCEEDED", "no replicas are an outage, not a remedy")
    if abs(after - before) <= limit or _judged(standing):
        return Gate(name, True, message=told)
    numbers = {"before": str(before), "after": str(after), "limit": str(limit)}
    return Gate(name, False, "BOUNDS_EXCEEDED", told, metadata=numbers)


def only_replica(remedy: Remedy, seen: Seen, standing: Standing) -> Gate:
    """SINGLE_REPLICA: nothing would serve meanwhile; a person may say that this is all right."""
    count = _replicas(seen)
    if count != 1 or _judged(standing):
        return Gate("object.replicas", True, message=f"{count} replicas")
    return Gate("object.replicas", False, "SINGLE_REPLICA", "it is the only replica")


def budgets(remedy: Remedy, seen: Seen, standing: Standing) -> Gate:
    """PDB_EXHAUSTED: what the eviction would answer, told before it is sent.

    A pod that is not ready may go where a budget holds without it, as the API server has it; and
    it goes past every budget where the executor may delete it.
    """
    name, pod = "object.budget", seen.live
    if pod is None:
        return Gate(name, False, "PDB_EXHAUSTED", "the pod was not read")
    over = [budget for budget in seen.budgets if selects(budget["spec"].get("selector"), pod)]
    unready = not is_true(pod, "Ready")
    if unready and (getattr(remedy, "delete_unready", False) or not _is_running(pod)):
        return Gate(name, True, message="it is not ready and may go past budgets")
    if len(over) > 1:
        names = ", ".join(budget["metadata"]["name"] for budget in over)
        return Gate(
            name, False, "PDB_EXHAUSTED", f"budgets overlap: {names}", metadata={"budget": names}
        )
    for budget in over:
        return _budget_gate(name, budget, unready=unready)
    return Gate(name, True, message="no disruption budget counts it")


def _budget_gate(name: str, budget: Object, *, unready: bool) -> Gate:
    status, called = budget.get("status", {}), budget["metadata"]["name"]
    allowed, healthy = status.get("disruptionsAllowed", 0), status.get("currentHealthy", 0)
    needed = status.get("desiredHealthy", 0)
    told = f"{called} allows {allowed} disruptions ({healthy} healthy, {needed} needed)"
    always = budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow"
    if allowed > 0 or (unready and (always or healthy >= needed > 0)):
        return Gate(name, True, message=told)
    return Gate(name, False, "PDB_EXHAUSTED", told, metadata={"budget": called})


def _subjects(seen: Seen) -> Sequence[Object]:
    return [each for each in (seen.live, seen.owner) if each is not None]


def _is_set(value: str | None) -> bool:
    # A mark that says "false" was taken off; any other value was meant.
    return value is not None and value.lower() != "false"


def _judged(standing: Standing) -> bool:
    return standing.approved or standing.break_glass


def _owned(name: str, reason: str, message: str, owner: str, standing: Standing) -> Gate:
    if standing.break_glass:
        return Gate(name, True, message=f"{message}; the glass is broken")
    return Gate(name, False, reason, message, metadata={"owner": owner})


def _unsettled(state: str) -> Gate:
    return Gate(
        "object.settled", False, "TARGET_UNSETTLED", f"it is {state}", metadata={"state": state}
    )


def _stopped(seen: Seen) -> str:
    if any(is_going(each) for each in _subjects(seen)):
        return "deleting"
    paused = seen.live is not None and seen.live["spec"].get("paused")
    return "paused" if paused else ""


def _rolling(deployment: Object) -> str:
    if not is_observed(deployment):
        return "changing"
    status, wanted = deployment.get("status", {}), replicas_of(deployment)
    updated, there = status.get("updatedReplicas", 0), status.get("replicas", 0)
    # Unavailable pods are an illness, not a rollout; and one that ran into its deadline is over.
    moving = updated < wanted or there != updated
    return "rolling" if moving and not _gave_up(deployment) else ""


def _gave_up(deployment: Object) -> bool:
    conditions = deployment.get("status", {}).get("conditions") or []
    return any(
        c.get("type") == "Progressing" and c.get("reason") == "ProgressDeadlineExceeded"
        for c in conditions
    )


def _gitops_owner(live: Object) -> str:
    marks: Mapping[str, str] = {**labels_of(live), **annotations_of(live)}
    for mark, owner in _GITOPS_MARKS.items():
        if mark in marks:
            return owner
    managers = (m.get("manager", "") for m in live["metadata"].get("managedFields") or [])
    return next((_GITOPS_MANAGERS[m] for m in managers if m in _GITOPS_MANAGERS), "")


def _replicas(seen: Seen) -> int:
    live = seen.live
    if seen.owner is not None:
        return replicas_of(seen.owner)
    if live is None:
        return 1
    if "replicas" in live["spec"] or "template" in live["spec"]:
        return replicas_of(live)
    controller = controller_of(live).get("uid")
    like = [p for p in seen.pods if controller_of(p).get("uid") == controller and not is_going(p)]
    # The pod itself is one, whatever the list says.
    return max(1, len(like))


def _is_running(pod: Object) -> bool:
    return bool(pod.get("status", {}).get("phase") == "Running")
