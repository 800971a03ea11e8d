"""The closed catalogue of what the executor can do, as pure functions on what the cluster said.

Each remediation is told here three times over: what it wants, how to change the live object into
that (`plan`), and how to see afterwards, whatever was lost on the way, whether it happened
(`recognise`). Objects are plain JSON: typed models silently drop fields they do not know.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from aegis.errors import Aborted, FailedPrecondition, NotFound
from aegis.v1 import envelope_pb2
from aegis_executor.catalogue import base

Object: TypeAlias = Mapping[str, Any]

ACTION_ID = "aegis.dev/action-id"
_HASH_LABEL = "pod-template-hash"
_REVISION = "deployment.kubernetes.io/revision"
# Who makes a new pod when one is evicted. A Job would lose work, a bare pod would be gone.
_REPLACING = frozenset({"ReplicaSet", "StatefulSet", "DaemonSet"})


@dataclass(frozen=True, slots=True)
class RestartPod:
    """Evict this pod; its controller makes a new one."""

    namespace: str
    name: str
    uid: str
    grace_seconds: int | None


@dataclass(frozen=True, slots=True)
class ScaleDeployment:
    """Run exactly this many replicas."""

    namespace: str
    name: str
    uid: str
    replicas: int


@dataclass(frozen=True, slots=True)
class RollbackDeployment:
    """Put the pod template of an earlier ReplicaSet back; no hash means the one before."""

    namespace: str
    name: str
    uid: str
    pod_template_hash: str


Remediation: TypeAlias = RestartPod | ScaleDeployment | RollbackDeployment

ACTIONS: Mapping[type[Remediation], str] = {
    RestartPod: "restart_pod",
    ScaleDeployment: "scale_deployment",
    RollbackDeployment: "rollback_deployment",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One write, pinned to the very object and version that was read."""

    verb: Literal["evict", "scale", "patch"]
    namespace: str
    name: str
    uid: str
    resource_version: str
    generation: int
    body: Any
    observations: Mapping[str, str] = field(default_factory=dict)

    @property
    def placed(self) -> base.Change:
        """The same change, as the port to Kubernetes takes it."""
        kind = base.Kind.POD if self.verb == "evict" else base.Kind.DEPLOYMENT
        return base.Change(
            verb=self.verb,
            place=base.Place(kind, self.namespace, self.name, self.uid),
            resource_version=self.resource_version,
            generation=self.generation,
            body=self.body,
        )


@dataclass(frozen=True, slots=True)
class Sent:
    """What is remembered of a change that was sent: enough to recognise it."""

    uid: str
    resource_version: str
    generation: int


class Trace(enum.Enum):
    """What the live object tells about a change whose answer was lost."""

    APPLIED = "applied"
    # Not there, and its precondition no longer holds: it cannot take effect any more.
    DEAD = "dead"
    # Not there, but it might still be on its way.
    OPEN = "open"
    # The object moved on in a way that could hide it.
    HIDDEN = "hidden"


def of_spec(spec: envelope_pb2.ActionSpec) -> Remediation:
    """Returns the remediation a (validated) spec asks for."""
    target = spec.target
    place = (target.namespace, target.name, target.uid)
    match spec.WhichOneof("action"):
        case "restart_pod":
            asked = spec.restart_pod
            grace = asked.grace_seconds if asked.HasField("grace_seconds") else None
            return RestartPod(*place, grace)
        case "scale_deployment":
            return ScaleDeployment(*place, spec.scale_deployment.replicas)
        case "rollback_deployment":
            return RollbackDeployment(*place, spec.rollback_deployment.pod_template_hash)
        case _:
            raise ValueError("the spec names no action")


def plan(
    wanted: Remediation, live: Object | None, replica_sets: Sequence[Object], action_id: str
) -> Change | None:
    """Returns the change that does it, or None when there is nothing left to change.

    `live` is the pod or deployment, `replica_sets` those of its namespace (rollback only).
    Raises `NotFound` (TARGET_GONE), `Aborted` (TARGET_CHANGED) or `FailedPrecondition`
    (CLUSTER_REFUSED).
    """
    if live is None or "deletionTimestamp" in live["metadata"]:
        raise NotFound("TARGET_GONE", f"{wanted.namespace}/{wanted.name} is not there any more")
    uid = live["metadata"]["uid"]
    if wanted.uid and wanted.uid != uid:
        raise Aborted("TARGET_CHANGED", "the object was replaced since the request was signed")
    match wanted:
        case RestartPod():
            return _plan_restart(wanted, live)
        case ScaleDeployment():
            return _plan_scale(wanted, live)
        case RollbackDeployment():
            return _plan_rollback(wanted, live, replica_sets, action_id)


def recognise(wanted: Remediation, sent: Sent, live: Object | None, action_id: str) -> Trace:
    """Tells from the live object whether the change that was sent took effect."""
    same = live is not None and live["metadata"]["uid"] == sent.uid
    if isinstance(wanted, RestartPod):
        gone = not same or live is None or "deletionTimestamp" in live["metadata"]
        return Trace.APPLIED if gone else Trace.OPEN
    if live is None or not same:
        return Trace.HIDDEN
    metadata = live["metadata"]
    if isinstance(wanted, ScaleDeployment):
        applied = _replicas(live) == wanted.replicas
    else:
        applied = metadata.get("annotations", {}).get(ACTION_ID) == action_id
    if applied:
        return Trace.APPLIED
    if metadata["generation"] != sent.generation:
        return Trace.HIDDEN
    # Any write changes the version, and ours was pinned to the old one.
    return Trace.OPEN if metadata["resourceVersion"] == sent.resource_version else Trace.DEAD


def _plan_restart(wanted: RestartPod, pod: Object) -> Change:
    owners = pod["metadata"].get("ownerReferences", [])
    owner: Object = next((o for o in owners if o.get("controller")), {})
    if owner.get("kind") not in _REPLACING:
        raise FailedPrecondition("CLUSTER_REFUSED", "nothing would replace this pod")
    return _change("evict", wanted, pod, wanted.grace_seconds, {"owner": owner["name"]})


def _plan_scale(wanted: ScaleDeployment, deployment: Object) -> Change | None:
    before = _replicas(deployment)
    if before == wanted.replicas:
        return None
    seen = {"replicas_before": str(before), "replicas_after": str(wanted.replicas)}
    return _change("scale", wanted, deployment, {"spec": {"replicas": wanted.replicas}}, seen)


def _plan_rollback(
    wanted: RollbackDeployment, deployment: Object, candidates: Sequence[Object], action_id: str
) -> Change | None:
    if deployment["spec"].get("paused"):
        # The patch would be accepted and nothing would roll.
        raise FailedPrecondition("CLUSTER_REFUSED", "the deployment is paused")
    observed = deployment.get("status", {}).get("observedGeneration", 0)
    if not wanted.pod_template_hash and observed < deployment["metadata"]["generation"]:
        # The current template has no ReplicaSet yet, so the newest would pass for it.
        raise Aborted("TARGET_CHANGED", "the deployment is changing: which revision was before?")
    owned = sorted((rs for rs in candidates if _owned(rs, deployment)), key=_revision)
    target = _rollback_target(wanted, owned)
    template = _without_hash(target["spec"]["template"])
    if template == deployment["spec"]["template"]:
        return None
    annotations = deployment["metadata"].get("annotations")
    if annotations is None:
        mark = {"op": "add", "path": "/metadata/annotations", "value": {ACTION_ID: action_id}}
    else:
        path = "/metadata/annotations/" + ACTION_ID.replace("/", "~1")
        mark = {"op": "add", "path": path, "value": action_id}
    # A failed `test` is an empty-handed 422; replacing the version with a stale one is a 409.
    body = [
        _replace("/metadata/uid", deployment["metadata"]["uid"]),
        _replace("/metadata/resourceVersion", deployment["metadata"]["resourceVersion"]),
        mark,
        _replace("/spec/template", template),
    ]
    seen = {
        "pod_template_hash_before": _hash_of(owned[-1]),
        "pod_template_hash_after": _hash_of(target),
    }
    return _change("patch", wanted, deployment, body, seen)


def _rollback_target(wanted: RollbackDeployment, owned: Sequence[Object]) -> Object:
    if not wanted.pod_template_hash:
        if len(owned) < 2:
            raise FailedPrecondition("CLUSTER_REFUSED", "there is no earlier revision")
        return owned[-2]
    for replica_set in owned:
        if _hash_of(replica_set) == wanted.pod_template_hash:
            return replica_set
    raise NotFound("TARGET_GONE", "no ReplicaSet of this deployment has that pod-template-hash")


def _change(
    verb: Literal["evict", "scale", "patch"],
    wanted: Remediation,
    live: Object,
    body: Any,
    observations: Mapping[str, str],
) -> Change:
    metadata = live["metadata"]
    return Change(
        verb=verb,
        namespace=wanted.namespace,
        name=wanted.name,
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 0),
        body=body,
        observations={"uid": metadata["uid"], **observations},
    )


def _replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def _replicas(deployment: Object) -> int:
    # Absent means the API's default.
    return int(deployment["spec"].get("replicas", 1))


def _owned(replica_set: Object, deployment: Object) -> bool:
    owners = replica_set["metadata"].get("ownerReferences", [])
    uid = deployment["metadata"]["uid"]
    return any(o.get("controller") and o.get("uid") == uid for o in owners)


def _revision(replica_set: Object) -> int:
    return int(replica_set["metadata"].get("annotations", {}).get(_REVISION, "0"))


def _hash_of(replica_set: Object) -> str:
    return str(replica_set["metadata"].get("labels", {}).get(_HASH_LABEL, ""))


def _without_hash(template: Object) -> dict[str, Any]:
    metadata = dict(template.get("metadata", {}))
    metadata["labels"] = {
        name: value for name, value in metadata.get("labels", {}).items() if name != _HASH_LABEL
    }
    return {**template, "metadata": metadata}
