"""Something fresh for every point: what one point did can never explain what another one sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration

from aegis.v1.envelope_pb2 import ActionSpec
from aegis_sandbox.scenario import EXECUTOR_NODES, deployment
from tests.e2e.executor.conftest import Cluster
from tests.processes import until

NAMESPACE = "demo"
Verification = ActionSpec.Verification
_DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
_IMAGE = "/spec/template/spec/containers/0/image"

_ACTIONS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "restart_pod": lambda: {"restart_pod": ActionSpec.RestartPod()},
    "restart_rollout": lambda: {"restart_rollout": ActionSpec.RestartRollout()},
    "scale_deployment": lambda: {"scale_deployment": ActionSpec.ScaleDeployment(replicas=3)},
    "rollback_deployment": lambda: {"rollback_deployment": ActionSpec.RollbackDeployment()},
    "cordon_node": lambda: {"cordon_node": ActionSpec.CordonNode()},
    "uncordon_node": lambda: {"uncordon_node": ActionSpec.UncordonNode()},
}
VERBS = tuple(_ACTIONS)


@dataclass(frozen=True, slots=True)
class Target:
    """What a point acts on."""

    namespace: str
    name: str


class Targets:
    """Makes deployments, two pods each, and clears nodes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._made = 0
        self._last = ""

    def fresh(self, verb: str, *, ill: bool = False) -> Target:
        """Returns a settled target; an `ill` one is such that the action will not heal it."""
        if verb in ("cordon_node", "uncordon_node"):
            return self._node(unschedulable=verb == "uncordon_node")
        name = self._deployment(ill_before=ill and verb == "rollback_deployment")
        if ill and verb != "rollback_deployment":
            self._cluster.tell("break", namespace=NAMESPACE, deployment=name)
            until(lambda: self._ready(name) == 0)
        if verb == "restart_pod":
            pods = self._cluster.pods(NAMESPACE, name)
            return Target(NAMESPACE, min(pod["metadata"]["name"] for pod in pods))
        return Target(NAMESPACE, name)

    def _deployment(self, *, ill_before: bool) -> str:
        if self._last:
            self._cluster.send("DELETE", f"{_DEPLOYMENTS}/{self._last}")
        self._made += 1
        name = self._last = f"point-{self._made:04}"
        image = "registry.example/app:does-not-exist" if ill_before else "registry.example/app:1"
        self._cluster.send("POST", _DEPLOYMENTS, deployment(NAMESPACE, name, 2, image))
        until(lambda: self._observed(name) >= 1)
        # An earlier revision to return to.
        newer = {"op": "replace", "path": _IMAGE, "value": "registry.example/app:2"}
        self._cluster.send("PATCH", f"{_DEPLOYMENTS}/{name}", [newer])
        self._cluster.settled(NAMESPACE, name)
        return name

    def _node(self, *, unschedulable: bool) -> Target:
        node = EXECUTOR_NODES[0]
        patch = {"spec": {"unschedulable": unschedulable or None}}
        self._cluster.send("PATCH", f"/api/v1/nodes/{node}", patch)
        return Target("", node)

    def _ready(self, name: str) -> int:
        return int(self._cluster.deployment(NAMESPACE, name)["status"].get("readyReplicas", 0))

    def _observed(self, name: str) -> int:
        status = self._cluster.deployment(NAMESPACE, name).get("status", {})
        return int(status.get("observedGeneration", 0))


def spec_of(verb: str, target: Target, *, takes_back: bool = False) -> ActionSpec:
    """A spec that does it, watched for a moment only."""
    failure = Verification.ON_FAILURE_COMPENSATE if takes_back else Verification.ON_FAILURE_NONE
    return ActionSpec(
        target=ActionSpec.Target(cluster="sandbox", namespace=target.namespace, name=target.name),
        verification=Verification(
            stabilise=Duration(), window=Duration(seconds=1), successes=1, on_failure=failure
        ),
        **_ACTIONS[verb](),
    )
