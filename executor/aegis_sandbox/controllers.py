"""What the controllers and the kubelet do, as one step: `tick()`.

A tick looks at everything once and moves each thing at most one step on, so a test can stop the
world between two steps; the program calls it from a timer. Deployments here; pods and disruption
budgets in `workloads.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aegis_sandbox.objects import Objects
from aegis_sandbox.status import Object
from aegis_sandbox.workloads import Workloads, controlled_by, is_available

REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
HASH_LABEL = "pod-template-hash"
# Kubernetes' alphabet for generated names: nothing that could spell a word.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def template_hash(template: Object) -> str:
    """Returns the name part of a template; equal templates, equal hashes."""
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:10])


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far a rollout was, and when it last got further."""

    state: tuple[int, int, int, int]
    at: datetime


class Controllers:
    """The controllers of one sandbox. Not safe to be run twice at once."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.workloads = Workloads(objects)
        self._progress: dict[str, _Progress] = {}

    def tick(self) -> bool:
        """Does one step of everything; returns whether anything changed."""
        before = self._objects.revision
        for deployment in self._objects.list("deployments"):
            self._sync(deployment)
        self.workloads.tick()
        return self._objects.revision != before

    def settle(self, ticks: int = 100) -> None:
        """Ticks until nothing changes any more."""
        for _ in range(ticks):
            if not self.tick():
                return

    def _sync(self, deployment: Object) -> None:
        owned = [*self._objects.controlled("replicasets", deployment)]
        paused = bool(deployment["spec"].get("paused"))
        current = self._current(deployment, owned, paused=paused)
        if current is not None:
            old = [o for o in owned if o["metadata"]["uid"] != current["metadata"]["uid"]]
            self._roll(deployment, current, old, paused=paused)
        owned = [*self._objects.controlled("replicasets", deployment)]
        self._report(deployment, owned, paused=paused)
        self._forget(deployment, owned)

    def _forget(self, deployment: Object, owned: list[Object]) -> None:
        idle = sorted((o for o in owned if o["spec"]["replicas"] == 0), key=_revision)
        current = deployment["spec"]["template"]
        old = [o for o in idle if without_hash(o["spec"]["template"]) != current]
        for replica_set in old[: max(0, len(old) - deployment["spec"]["revisionHistoryLimit"])]:
            metadata = replica_set["metadata"]
            self._objects.delete("replicasets", metadata["namespace"], metadata["name"])

    def _current(self, deployment: Object, owned: list[Object], *, paused: bool) -> Object | None:
        template = deployment["spec"]["template"]
        newest = max((_revision(replica_set) for replica_set in owned), default=0)
        found = next((o for o in owned if without_hash(o["spec"]["template"]) == template), None)
        if found is None:
            return None if paused else self._new_replica_set(deployment, newest + 1)
        if _revision(found) < newest:
            # An old ReplicaSet is used again: it gets the next number and remembers its old one.
            annotations = found["metadata"]["annotations"]
            history = [*filter(None, annotations.get(REVISION_HISTORY, "").split(","))]
            annotations[REVISION_HISTORY] = ",".join([*history, annotations[REVISION]])
            annotations[REVISION] = str(newest + 1)
            found = self._objects.update("replicasets", found)
        return found

    def _new_replica_set(self, deployment: Object, revision: int) -> Object:
        spec, metadata = deployment["spec"], deployment["metadata"]
        name_hash = template_hash(spec["template"])
        template = json.loads(json.dumps(spec["template"]))
        template.setdefault("metadata", {}).setdefault("labels", {})[HASH_LABEL] = name_hash
        labels = {**spec["selector"]["matchLabels"], HASH_LABEL: name_hash}
        return self._objects.create(
            "replicasets",
            {
                "kind": "ReplicaSet",
                "apiVersion": "apps/v1",
                "metadata": {
                    "name": f"{metadata['name']}-{name_hash}",
                    "namespace": metadata["namespace"],
                    "labels": dict(template["metadata"]["labels"]),
                    "annotations": {REVISION: str(revision)},
                    "ownerReferences": [owner_reference(deployment)],
                },
                "spec": {
                    "replicas": 0,
                    "selector": {"matchLabels": labels},
                    "template": template,
                },
                "status": {"replicas": 0},
            },
        )

    def _roll(
        self, deployment: Object, current: Object, old: list[Object], *, paused: bool
    ) -> None:
        desired = deployment["spec"]["replicas"]
        total = sum(o["spec"]["replicas"] for o in (current, *old))
        running_old = [o for o in old if o["spec"]["replicas"] > 0]
        if paused or not running_old:
            # Nothing to roll: only the number of replicas may have to follow.
            target = running_old[0] if paused and running_old else current
            self._scale(target, desired)
            return
        surge, unavailable = _rolling_bounds(deployment)
        room = desired + surge - total
        have = current["spec"]["replicas"]
        if have != desired:
            self._scale(current, max(0, min(desired, have + room)) if have < desired else desired)
        self._shrink(running_old, current, desired - unavailable)

    def _shrink(self, old: list[Object], current: Object, available_min: int) -> None:
        pods = {
            o["metadata"]["uid"]: [
                p for p in self.workloads.pods_of(o) if "deletionTimestamp" not in p["metadata"]
            ]
            for o in (*old, current)
        }
        available = sum(is_available(pod) for group in pods.values() for pod in group)
        for replica_set in old:
            group = pods[replica_set["metadata"]["uid"]]
            ill = sum(not is_available(pod) for pod in group)
            spare = max(0, available - available_min)
            well_to_go = min(len(group) - ill, spare)
            available -= well_to_go
            self._scale(replica_set, max(0, replica_set["spec"]["replicas"] - ill - well_to_go))

    def _scale(self, replica_set: Object, replicas: int) -> None:
        if replica_set["spec"]["replicas"] != replicas:
            replica_set["spec"]["replicas"] = replicas
            self._objects.update("replicasets", replica_set)

    def _report(self, deployment: Object, owned: list[Object], *, paused: bool) -> None:
        desired = deployment["spec"]["replicas"]
        newest = max(owned, key=_revision, default=None)
        all_pods = [pod for o in owned for pod in self.workloads.pods_of(o)]
        pods = [pod for pod in all_pods if "deletionTimestamp" not in pod["metadata"]]
        is_current = newest is not None and (
            without_hash(newest["spec"]["template"]) == deployment["spec"]["template"]
        )
        updated = [
            pod for pod in pods if newest is not None and is_current and controlled_by(pod, newest)
        ]
        available = sum(is_available(pod) for pod in pods)
        counts = {
            "replicas": len(pods),
            "updatedReplicas": len(updated),
            "readyReplicas": available,
            "availableReplicas": available,
            "unavailableReplicas": max(0, desired - available),
            "terminatingReplicas": len(all_pods) - len(pods),
        }
        done = len(updated) == len(pods) == available == desired
        status = {
            "observedGeneration": deployment["metadata"]["generation"],
            **counts,
            "conditions": [
                _available(available, desired, _rolling_bounds(deployment)[1]),
                self._progressing(deployment, counts, done=done, paused=paused),
            ],
        }
        if newest is not None:
            annotations = deployment["metadata"].setdefault("annotations", {})
            annotations[REVISION] = newest["metadata"]["annotations"][REVISION]
        deployment["status"] = status
        self._objects.update("deployments", deployment)

    def _progressing(
        self, deployment: Object, counts: dict[str, int], *, done: bool, paused: bool
    ) -> Object:
        uid, now = deployment["metadata"]["uid"], self._objects.clock()
        state = (
            deployment["metadata"]["generation"],
            counts["replicas"],
            counts["updatedReplicas"],
            counts["availableReplicas"],
        )
        last = self._progress.get(uid)
        if last is None or last.state != state:
            last = self._progress[uid] = _Progress(state, now)
        if paused:
            return _condition("Progressing", "Unknown", "DeploymentPaused")
        if done:
            return _condition("Progressing", "True", "NewReplicaSetAvailable")
        waited = (now - last.at).total_seconds()
        if waited > deployment["spec"]["progressDeadlineSeconds"]:
            return _condition("Progressing", "False", "ProgressDeadlineExceeded")
        return _condition("Progressing", "True", "ReplicaSetUpdated")


def owner_reference(owner: Object) -> Object:
    """Returns the reference a controller puts on what it makes."""
    return {
        "apiVersion": "apps/v1",
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def without_hash(template: Object) -> Object:
    """Returns a ReplicaSet's template as the deployment had it."""
    metadata = dict(template.get("metadata", {}))
    metadata["labels"] = {k: v for k, v in metadata.get("labels", {}).items() if k != HASH_LABEL}
    return {**template, "metadata": metadata}


def _revision(replica_set: Object) -> int:
    return int(replica_set["metadata"].get("annotations", {}).get(REVISION, "0"))


def _rolling_bounds(deployment: Object) -> tuple[int, int]:
    rolling = deployment["spec"]["strategy"]["rollingUpdate"]
    desired = deployment["spec"]["replicas"]
    surge = _resolve(rolling["maxSurge"], desired, round_up=True)
    unavailable = _resolve(rolling["maxUnavailable"], desired, round_up=False)
    # Both zero would never get anywhere, so Kubernetes lets one go.
    return (surge, unavailable) if surge or unavailable else (0, 1)


def _resolve(value: Any, of: int, *, round_up: bool) -> int:
    if isinstance(value, int):
        return value
    share = int(str(value).rstrip("%")) * of / 100
    return math.ceil(share) if round_up else math.floor(share)


def _available(available: int, desired: int, unavailable_max: int) -> Object:
    if available >= desired - unavailable_max:
        return _condition("Available", "True", "MinimumReplicasAvailable")
    return _condition("Available", "False", "MinimumReplicasUnavailable")


def _condition(kind: str, status: str, reason: str) -> Object:
    return {"type": kind, "status": status, "reason": reason}
