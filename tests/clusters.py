"""Kubernetes objects for tests, and a cluster made of a dictionary."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aegis_executor.catalogue.base import Change, Kind, Object, Place
from aegis_executor.kubernetes import ClusterRefused


def template(image: str = "web:3", **labels: str) -> dict[str, Any]:
    """A pod template with a field this program knows nothing of."""
    return {
        "metadata": {"labels": {"app": "web", **labels}},
        "spec": {"containers": [{"name": "web", "image": image, "fieldOfTheFuture": 1}]},
    }


def deployment(
    replicas: int = 3,
    *,
    metadata: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A deployment `demo/web` that has settled; arguments change it."""
    counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    return {
        "metadata": {
            "name": "web",
            "namespace": "demo",
            "uid": "d-1",
            "resourceVersion": "20",
            "generation": 4,
            **(metadata or {}),
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template(),
            **spec,
        },
        "status": {
            "observedGeneration": 4,
            **dict.fromkeys(counts, replicas),
            **(status or {}),
        },
    }


def replica_set(revision: int, image: str, owner: str = "d-1") -> dict[str, Any]:
    """A ReplicaSet of `demo/web` with the hash `hash<revision>`."""
    name_hash = f"hash{revision}"
    return {
        "metadata": {
            "name": f"web-{name_hash}",
            "uid": f"rs-{revision}",
            "labels": {"app": "web", "pod-template-hash": name_hash},
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
            "ownerReferences": [
                {"kind": "Deployment", "name": "web", "uid": owner, "controller": True}
            ],
        },
        "spec": {"template": template(image, **{"pod-template-hash": name_hash})},
    }


def pod(
    name: str = "web-1",
    *,
    ready: bool = True,
    kind: str | None = "ReplicaSet",
    owner: str = "rs-10",
    metadata: Mapping[str, Any] | None = None,
    phase: str = "Running",
) -> dict[str, Any]:
    """A pod of `demo/web`'s current ReplicaSet."""
    reference = {"kind": kind, "name": "web-hash10", "uid": owner, "controller": True}
    return {
        "metadata": {
            "name": name,
            "namespace": "demo",
            "uid": f"uid-of-{name}",
            "resourceVersion": "7",
            "labels": {"app": "web", "pod-template-hash": "hash10"},
            "ownerReferences": [reference] if kind else [],
            **(metadata or {}),
        },
        "spec": {},
        "status": {
            "phase": phase,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def node(*, cordoned: bool | None = None, ready: bool = True, **metadata: Any) -> dict[str, Any]:
    """A node `n-1`; nodes have no generation."""
    spec = {} if cordoned is None else {"unschedulable": cordoned}
    return {
        "metadata": {"name": "n-1", "uid": "node-1", "resourceVersion": "5", **metadata},
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def budget(allowed: int = 1, *, name: str = "web", **changes: Any) -> dict[str, Any]:
    """A disruption budget over `demo/web`; `changes` go into spec or status."""
    spec = {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}
    status = {"disruptionsAllowed": allowed, "currentHealthy": 2 + allowed, "desiredHealthy": 2}
    for key, value in changes.items():
        (status if key in status else spec)[key] = value
    return {"metadata": {"name": name}, "spec": spec, "status": status}


def autoscaler(target: str = "web", **labels: str) -> dict[str, Any]:
    """A horizontal autoscaler of a deployment."""
    return {
        "metadata": {"name": f"hpa-{target}", "labels": labels},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": target}},
    }


def patched(change: Change | None) -> dict[str, Any]:
    """The values of a JSON patch by their paths."""
    assert change is not None
    return {operation["path"]: operation["value"] for operation in change.body}


def conflict() -> ClusterRefused:
    """What a stale resourceVersion is answered with."""
    return ClusterRefused(409, "Conflict", (), "audit-409")


class FakeCluster:
    """Objects by kind and name, changed as an API server would change them.

    `faults` are raised, one a call, by what its name begins with (`apply`, `dry_run`, `pod`…);
    `before` is called at the start of each of those.
    """

    def __init__(self, *objects: tuple[Kind, dict[str, Any]]) -> None:
        self.objects = {(kind, live["metadata"]["name"]): live for kind, live in objects}
        self.others: dict[str, list[dict[str, Any]]] = {}
        self.faults: dict[str, list[Exception | None]] = {}
        self.before: dict[str, Callable[[], None]] = {}
        self.calls: list[str] = []
        self.sent: list[Change] = []
        self.events: list[tuple[str, str]] = []

    def touch(self, kind: Kind, name: str) -> None:
        """Moves the version, as a status update does."""
        metadata = self.objects[kind, name]["metadata"]
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)

    async def pod(self, namespace: str, name: str) -> Object | None:
        return self._get("pod", Kind.POD, name)

    async def deployment(self, namespace: str, name: str) -> Object | None:
        return self._get("deployment", Kind.DEPLOYMENT, name)

    async def node(self, name: str) -> Object | None:
        return self._get("node", Kind.NODE, name)

    async def pods(self, namespace: str, labels: Mapping[str, str]) -> Sequence[Object]:
        self._call("pods")
        found = [live for (kind, _), live in self.objects.items() if kind is Kind.POD]
        return [live for live in found if _carries(live, labels)]

    async def replica_sets(self, namespace: str, labels: Mapping[str, str]) -> Sequence[Object]:
        return [live for live in self._list("replica_sets") if _carries(live, labels)]

    async def budgets(self, namespace: str) -> Sequence[Object]:
        return self._list("budgets")

    async def autoscalers(self, namespace: str) -> Sequence[Object]:
        return self._list("autoscalers")

    async def dry_run(self, change: Change) -> tuple[Object | None, list[str]]:
        self._call("dry_run")
        return self._changed(change), ["careful"]

    async def apply(self, change: Change) -> str:
        self.sent.append(change)
        self._call("apply")
        changed = self._changed(change)
        key = (change.place.kind, change.place.name)
        if changed is None:
            self.objects[key]["metadata"]["deletionTimestamp"] = "now"
        else:
            if change.verb == "scale":
                self.objects[key]["spec"]["replicas"] = changed["spec"]["replicas"]
            else:
                self.objects[key] = changed
            metadata = self.objects[key]["metadata"]
            metadata["generation"] = metadata.get("generation", 0) + 1
            self.touch(*key)
        return f"audit-{len(self.sent)}"

    async def record_event(
        self, place: Place, uid: str, reason: str, message: str, action_id: str
    ) -> None:
        self._call("record_event")
        self.events.append((message, action_id))

    def _changed(self, change: Change) -> dict[str, Any] | None:
        live = copy.deepcopy(self.objects.get((change.place.kind, change.place.name)))
        if live is None:
            raise ClusterRefused(404, "NotFound", (), "audit-404")
        metadata = live["metadata"]
        pinned = change.verb in ("scale", "patch")
        if metadata["uid"] != change.place.uid or (
            pinned and metadata["resourceVersion"] != change.resource_version
        ):
            raise conflict()
        match change.verb:
            case "scale":
                return {"metadata": metadata, "spec": change.body["spec"]}
            case "patch":
                for operation in change.body:
                    _operate(live, operation)
                return live
        return None

    def _get(self, what: str, kind: Kind, name: str) -> Object | None:
        self._call(what)
        return copy.deepcopy(self.objects.get((kind, name)))

    def _list(self, what: str) -> list[dict[str, Any]]:
        self._call(what)
        return self.others.get(what, [])

    def _call(self, what: str) -> None:
        self.calls.append(what)
        if what in self.before:
            self.before.pop(what)()
        faults = self.faults.get(what, [])
        fault = faults.pop(0) if faults else None
        if fault is not None:
            raise fault


def _carries(live: Object, labels: Mapping[str, str]) -> bool:
    return labels.items() <= live["metadata"].get("labels", {}).items()


def _operate(live: dict[str, Any], operation: Mapping[str, Any]) -> None:
    *way, last = (
        part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
    )
    found = live
    for part in way:
        found = found[part]
    found[last] = operation["value"]
