"""Objects as a cluster shows them, and a remedy to judge them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from aegis_executor.catalogue import gates
from aegis_executor.catalogue.base import (
    Change,
    Kind,
    Need,
    Object,
    Place,
    Remedy,
    Seen,
    Sent,
    Trace,
)

WEB = Place(Kind.DEPLOYMENT, "demo", "web", "u-web")


def deployment(
    replicas: int = 3, *, available: int | None = None, generation: int = 5, **told: Any
):
    """`demo/web`, settled unless told otherwise."""
    available = replicas if available is None else available
    return {
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "demo",
            "uid": told.get("uid", "u-web"),
            "generation": generation,
            "resourceVersion": told.get("version", "100"),
            "annotations": told.get("annotations", {}),
            "labels": told.get("labels", {}),
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}},
        },
        "status": {
            "observedGeneration": told.get("observed", generation),
            "replicas": replicas,
            "updatedReplicas": told.get("updated", replicas),
            "availableReplicas": available,
            "conditions": told.get("conditions", []),
        },
    }


def replica_set() -> dict[str, Any]:
    """The one of `demo/web`."""
    owner = {"kind": "Deployment", "name": "web", "uid": "u-web", "controller": True}
    return {"metadata": {"name": "web-1", "uid": "u-rs", "ownerReferences": [owner]}}


def pod(name: str, *, ready: bool = True, restarts: int = 0, **metadata: Any) -> dict[str, Any]:
    """One pod of `demo/web`."""
    owner = {"kind": "ReplicaSet", "name": "web-1", "uid": "u-rs", "controller": True}
    return {
        "metadata": {
            "name": name,
            "namespace": "demo",
            "uid": f"u-{name}",
            "labels": {"app": "web"},
            "ownerReferences": [owner],
            **metadata,
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{"name": "web", "restartCount": restarts}],
        },
    }


@dataclass(frozen=True, slots=True)
class Scale:
    """The smallest remedy: a number of replicas, and back."""

    place: Place
    replicas: int

    verb: ClassVar[str] = "scale_deployment"
    needs: ClassVar[frozenset[Need]] = frozenset()
    gates: ClassVar[tuple[Any, ...]] = (gates.protected, gates.vetoed, gates.settled)

    @classmethod
    def of_spec(cls, spec: Any) -> Scale:
        return cls(WEB, spec.scale_deployment.replicas)

    def plan(self, seen: Seen, action_id: str) -> Change | None:
        assert seen.live is not None
        if seen.live["spec"]["replicas"] == self.replicas:
            return None
        metadata = seen.live["metadata"]
        body = {"spec": {"replicas": self.replicas}}
        return Change(
            "scale", self.place, metadata["resourceVersion"], metadata["generation"], body
        )

    def recognise(self, sent: Sent, live: Object | None, action_id: str) -> Trace:
        if live is None or live["metadata"]["uid"] != sent.uid:
            return Trace.HIDDEN
        if live["spec"]["replicas"] == self.replicas:
            return Trace.APPLIED
        if live["metadata"]["generation"] != sent.generation:
            return Trace.HIDDEN
        same = live["metadata"]["resourceVersion"] == sent.resource_version
        return Trace.OPEN if same else Trace.DEAD

    def undo(self, observations: Mapping[str, str]) -> Remedy | None:
        before = observations.get("replicas_before")
        return Scale(self.place, int(before)) if before else None

    def settled(self, seen: Seen) -> bool:
        """Believes too early on purpose: only readiness, as a naive remedy would."""
        return seen.live is not None and (
            seen.live["status"]["availableReplicas"] == seen.live["spec"]["replicas"]
        )
