"""Small questions to Kubernetes objects, and the changes every remedy makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from aegis.errors import Aborted, NotFound
from aegis.v1 import envelope_pb2
from aegis_executor.catalogue.base import ACTION_ID, Change, Kind, Object, Place, Sent, Trace

HASH_LABEL = "pod-template-hash"
# Labels that differ between the pods of one controller.
_OF_ONE_POD = frozenset(
    {
        "apps.kubernetes.io/pod-index",
        "controller-revision-hash",
        HASH_LABEL,
        "statefulset.kubernetes.io/pod-name",
    }
)
_REVISION = "deployment.kubernetes.io/revision"


def place_of(spec: envelope_pb2.ActionSpec, kind: Kind) -> Place:
    """Returns what a spec is aimed at."""
    target = spec.target
    return Place(kind, target.namespace, target.name, target.uid)


def found(place: Place, live: Object | None) -> Object:
    """Returns the object that is meant.

    Raises `NotFound` (TARGET_GONE) and `Aborted` (TARGET_CHANGED): a name is not an identity.
    """
    if live is None or "deletionTimestamp" in live["metadata"]:
        raise NotFound("TARGET_GONE", f"{place} is not there any more")
    if place.uid and place.uid != live["metadata"]["uid"]:
        raise Aborted("TARGET_CHANGED", f"{place} was replaced since the request was signed")
    return live


def change_of(
    verb: Literal["evict", "delete", "scale", "patch"],
    place: Place,
    live: Object,
    body: Any,
    observations: Mapping[str, str],
) -> Change:
    """Returns a change pinned to exactly this object in exactly this version."""
    metadata = live["metadata"]
    return Change(
        verb=verb,
        place=replace(place, uid=metadata["uid"]),
        resource_version=metadata["resourceVersion"],
        # Pods and nodes have none.
        generation=metadata.get("generation", 0),
        body=body,
        observations={"uid": metadata["uid"], **observations},
    )


def marked_patch(live: Object, action_id: str, *operations: Mapping[str, Any]) -> list[Any]:
    """Returns a JSON patch that leaves the action's mark on the object.

    The port pins it, as every write, to the uid and version of its change.
    """
    return [annotated("/metadata", live["metadata"], ACTION_ID, action_id), *operations]


def annotated(path: str, metadata: Object, name: str, value: str) -> dict[str, Any]:
    """Returns the operation that sets one annotation and keeps all others."""
    if metadata.get("annotations") is None:
        return {"op": "add", "path": f"{path}/annotations", "value": {name: value}}
    escaped = name.replace("~", "~0").replace("/", "~1")
    return {"op": "add", "path": f"{path}/annotations/{escaped}", "value": value}


def trace_of(sent: Sent, live: Object | None, *, applied: bool) -> Trace:
    """Tells what became of a pinned write that shows (`applied`) or does not show on `live`."""
    if live is None or live["metadata"]["uid"] != sent.uid:
        return Trace.HIDDEN
    if applied:
        return Trace.APPLIED
    metadata = live["metadata"]
    if metadata.get("generation", 0) != sent.generation:
        return Trace.HIDDEN
    # Any write changes the version, and ours was pinned to the old one.
    return Trace.OPEN if metadata["resourceVersion"] == sent.resource_version else Trace.DEAD


def carries(live: Object | None, action_id: str) -> bool:
    """True when the action's mark is on the object."""
    return live is not None and annotations_of(live).get(ACTION_ID) == action_id


def annotations_of(live: Object) -> Mapping[str, str]:
    """Returns the annotations, for there may be none."""
    return live["metadata"].get("annotations") or {}


def labels_of(live: Object) -> Mapping[str, str]:
    """Returns the labels, for there may be none."""
    return live["metadata"].get("labels") or {}


def alike(pod: Object) -> dict[str, str]:
    """Returns the labels a pod shares with the others of its controller."""
    return {name: value for name, value in labels_of(pod).items() if name not in _OF_ONE_POD}


def controller_of(live: Object) -> Object:
    """Returns the reference to the object's controller; empty when nothing controls it."""
    owners = live["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def is_going(live: Object) -> bool:
    """True once the object is on its way out."""
    return "deletionTimestamp" in live["metadata"]


def is_true(live: Object, condition: str) -> bool:
    """True when the object's status has this condition with status True."""
    conditions = live.get("status", {}).get("conditions") or []
    return any(c.get("type") == condition and c.get("status") == "True" for c in conditions)


def replicas_of(deployment: Object) -> int:
    """Returns how many are wanted; absent means the API's default."""
    return int(deployment["spec"].get("replicas", 1))


def is_observed(deployment: Object) -> bool:
    """True once the deployment's controller knows the newest spec."""
    observed = deployment.get("status", {}).get("observedGeneration", 0)
    return int(observed) >= int(deployment["metadata"].get("generation", 0))


def is_done(deployment: Object) -> bool:
    """True once a deployment is as it is wanted.

    Readiness alone says so too early: straight after a patch the old numbers stand.
    """
    status, wanted = deployment.get("status", {}), replicas_of(deployment)
    counts = (status.get(name, 0) for name in ("updatedReplicas", "replicas", "availableReplicas"))
    return is_observed(deployment) and all(count == wanted for count in counts)


def revision_of(replica_set: Object) -> int:
    """Returns the revision a ReplicaSet stands for now; they are renumbered."""
    return int(annotations_of(replica_set).get(_REVISION, "0"))


def hash_of(replica_set: Object) -> str:
    """Returns the name of a revision that stays."""
    return str(labels_of(replica_set).get(HASH_LABEL, ""))
