"""Pods as a ReplicaSet and a kubelet would keep them, and the counting of disruption budgets."""

from __future__ import annotations

import json
import math
import secrets
from typing import Any

from aegis_sandbox.objects import Objects, controller_of
from aegis_sandbox.status import Object

_CORDONED = "node.kubernetes.io/unschedulable"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


class Workloads:
    """Makes, starts, breaks and removes pods."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._broken: set[str] = set()

    def break_pods(self, namespace: str, labels: dict[str, str]) -> list[str]:
        """Lets the pods that now carry these labels crash for good; returns their names.

        A replacement is a new pod and therefore well: the illness a restart heals.
        """
        names = []
        for pod in self._objects.list("pods", namespace):
            if labels.items() <= pod["metadata"]["labels"].items():
                self._broken.add(pod["metadata"]["uid"])
                names.append(pod["metadata"]["name"])
        return names

    def pods_of(self, replica_set: Object) -> list[Object]:
        """Returns the pods a ReplicaSet controls, those on their way out included."""
        return [*self._objects.controlled("pods", replica_set)]

    def tick(self) -> None:
        """One step of the ReplicaSet controller, the scheduler, the kubelets and the budgets."""
        self._collect_orphans()
        self._taint()
        for pod in self._objects.list("pods"):
            self._live(pod)
        for replica_set in self._objects.list("replicasets"):
            self._fill(replica_set)
        for budget in self._objects.list("poddisruptionbudgets"):
            self._count(budget)

    def terminate(self, pod: Object, grace_seconds: int | None) -> Object:
        """Marks a pod for deletion, or removes it at once with grace 0; returns its last state."""
        metadata = pod["metadata"]
        default = pod["spec"].get("terminationGracePeriodSeconds", 30)
        grace = default if grace_seconds is None else grace_seconds
        if grace == 0:
            self._objects.delete("pods", metadata["namespace"], metadata["name"])
            return pod
        if "deletionTimestamp" not in metadata:
            metadata["deletionTimestamp"] = self._objects.timestamp()
            metadata["deletionGracePeriodSeconds"] = grace
            return self._objects.update("pods", pod)
        return pod

    def _collect_orphans(self) -> None:
        for resource, owners in (("replicasets", "deployments"), ("pods", "replicasets")):
            alive = {owner["metadata"]["uid"] for owner in self._objects.list(owners)}
            for thing in self._objects.list(resource):
                owner = controller_of(thing).get("uid")
                if owner is not None and owner not in alive:
                    metadata = thing["metadata"]
                    self._objects.delete(resource, metadata["namespace"], metadata["name"])

    def _taint(self) -> None:
        """What the node controller does after a cordon: the taint that keeps new pods away."""
        for node in self._objects.list("nodes"):
            spec = node["spec"]
            others = [taint for taint in spec.get("taints", []) if taint["key"] != _CORDONED]
            cordoned = [{"key": _CORDONED, "effect": "NoSchedule"}]
            taints = others + (cordoned if spec.get("unschedulable") else [])
            if taints:
                spec["taints"] = taints
            else:
                spec.pop("taints", None)
            self._objects.update("nodes", node)

    def _schedule(self, pod: Object) -> bool:
        """Gives a new pod the free node with the fewest pods; False while there is none."""
        if "nodeName" in pod["spec"]:
            return True
        busy = [other["spec"].get("nodeName") for other in self._objects.list("pods")]
        free = [
            node["metadata"]["name"]
            for node in self._objects.list("nodes")
            if not node["spec"].get("unschedulable")
        ]
        if not free:
            unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            pod["status"] = {"phase": "Pending", "conditions": [unscheduled]}
            self._objects.update("pods", pod)
            return False
        pod["spec"]["nodeName"] = min(free, key=busy.count)
        return True

    def _live(self, pod: Object) -> None:
        metadata = pod["metadata"]
        if "deletionTimestamp" in metadata:
            # The processes of a sandbox end at once: one tick after they were told to.
            self._broken.discard(metadata["uid"])
            self._objects.delete("pods", metadata["namespace"], metadata["name"])
            return
        if not self._schedule(pod):
            return
        if metadata["uid"] in self._broken:
            waiting, restarts = "CrashLoopBackOff", _restarts(pod) + (1 if is_available(pod) else 0)
        elif any("does-not-exist" in c["image"] for c in pod["spec"]["containers"]):
            waiting, restarts = "ImagePullBackOff", 0
        else:
            waiting, restarts = "", _restarts(pod)
        pod["status"] = _pod_status(pod, waiting, restarts)
        self._objects.update("pods", pod)

    def _fill(self, replica_set: Object) -> None:
        wanted = replica_set["spec"]["replicas"]
        pods = [p for p in self.pods_of(replica_set) if "deletionTimestamp" not in p["metadata"]]
        for _ in range(wanted - len(pods)):
            self._objects.create("pods", _new_pod(replica_set))
        pods.sort(key=is_available)  # The ill go first.
        for pod in pods[: max(0, len(pods) - wanted)]:
            self.terminate(pod, None)
        ready = sum(is_available(pod) for pod in pods)
        replica_set["status"] = {
            "replicas": wanted,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "observedGeneration": replica_set["metadata"]["generation"],
        }
        self._objects.update("replicasets", replica_set)

    def _count(self, budget: Object) -> None:
        spec = budget["spec"]
        labels = spec["selector"]["matchLabels"]
        pods = [
            pod
            for pod in self._objects.list("pods", budget["metadata"]["namespace"])
            if labels.items() <= pod["metadata"]["labels"].items()
        ]
        staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        expected, healthy = len(staying), sum(is_available(pod) for pod in staying)
        desired = _desired_healthy(spec, self._expected(staying) or expected)
        budget["status"] = {
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": expected,
            "disruptionsAllowed": max(0, healthy - desired),
            "observedGeneration": budget["metadata"]["generation"],
        }
        self._objects.update("poddisruptionbudgets", budget)

    def _expected(self, pods: list[Object]) -> int:
        """The replicas their controllers want, so that a missing pod counts as a disruption."""
        owners = {(p["metadata"]["namespace"], controller_of(p).get("name", "")) for p in pods}
        found = [self._objects.get("replicasets", *owner) for owner in owners]
        return sum(o["spec"]["replicas"] for o in found if o is not None)


def controlled_by(thing: Object, owner: Object) -> bool:
    """True when `owner` is the thing's controller, by uid."""
    return bool(controller_of(thing).get("uid") == owner["metadata"]["uid"])


def is_available(pod: Object) -> bool:
    """True when the pod is ready (the sandbox knows no minReadySeconds)."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _desired_healthy(spec: Object, expected: int) -> int:
    if "minAvailable" in spec:
        return _share(spec["minAvailable"], expected)
    return max(0, expected - _share(spec["maxUnavailable"], expected))


def _share(value: Any, of: int) -> int:
    if isinstance(value, int):
        return value
    return math.ceil(int(str(value).rstrip("%")) * of / 100)


def _restarts(pod: Object) -> int:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return int(statuses[0]["restartCount"]) if statuses else 0


def _pod_status(pod: Object, waiting: str, restarts: int) -> Object:
    state: Object = {"waiting": {"reason": waiting}} if waiting else {"running": {}}
    ready = "False" if waiting else "True"
    return {
        "phase": "Pending" if waiting == "ImagePullBackOff" else "Running",
        "conditions": [{"type": "Ready", "status": ready}],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "ready": not waiting,
                "restartCount": restarts,
                "state": state,
            }
            for container in pod["spec"]["containers"]
        ],
    }


def _new_pod(replica_set: Object) -> Object:
    template = json.loads(json.dumps(replica_set["spec"]["template"]))
    metadata = replica_set["metadata"]
    ending = "".join(secrets.choice(_ALPHABET) for _ in range(5))
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": f"{metadata['name']}-{ending}",
            "namespace": metadata["namespace"],
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"].get("annotations", {}),
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": template["spec"],
        "status": {"phase": "Pending", "conditions": []},
    }
