"""The ValidatingAdmissionPolicies of deploy/kubernetes, as the sandbox models them.

Not a CEL engine: the same rules told again in Python, for the executor's user only. A test
evaluates the shipped expressions beside these functions and holds both to the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from aegis_sandbox.access import EXECUTOR
from aegis_sandbox.asks import Ask
from aegis_sandbox.objects import Objects
from aegis_sandbox.routes import group_of
from aegis_sandbox.status import Object, Refused

Rule = Callable[[Object, Object], bool]

REPLICAS_MAX = 10
_MARK = "aegis.dev/action-id"
_MARKS = frozenset({_MARK})
# A restart of all pods is a mark on their template.
_POD_MARKS = frozenset({_MARK, "aegis.dev/restarted-by"})
_OPT_OUT = ("aegis.dev/rollback", "any")

_DEPLOYMENT_SPEC = (
    "selector",
    "strategy",
    "minReadySeconds",
    "revisionHistoryLimit",
    "paused",
    "progressDeadlineSeconds",
)
_NODE_SPEC = ("podCIDR", "podCIDRs", "providerID", "taints", "externalID", "configSource")
_METADATA = ("labels", "finalizers", "ownerReferences")
_POD_IDENTITY = (
    "serviceAccountName",
    "serviceAccount",
    "automountServiceAccountToken",
    "securityContext",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "hostUsers",
    "shareProcessNamespace",
    "runtimeClassName",
    "nodeName",
    "priorityClassName",
    "schedulerName",
    "resourceClaims",
    "imagePullSecrets",
)
_EXECUTED = ("command", "args", "workingDir", "securityContext", "lifecycle", "restartPolicy")
_BROUGHT = ("envFrom", "volumeDevices")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy: what it looks at, its rules (message, rule), how it says no."""

    name: str
    resources: frozenset[str]
    reason: str
    rules: tuple[tuple[str, Rule], ...]

    def broken(self, old: Object, new: Object) -> list[str]:
        """Returns the messages of the rules this change breaks."""
        return [message for message, holds in self.rules if not holds(old, new)]


def _same(old: Any, new: Any, fields: tuple[str, ...]) -> bool:
    return all(old.get(field) == new.get(field) for field in fields)


def _only_marked(old: Object, new: Object, marks: frozenset[str]) -> bool:
    before, after = old.get("annotations", {}), new.get("annotations", {})
    return {key for key in {**before, **after} if before.get(key) != after.get(key)} <= marks


def _frozen_deployment(old: Object, new: Object) -> bool:
    return (
        _same(old["spec"], new["spec"], _DEPLOYMENT_SPEC)
        and _same(old["metadata"], new["metadata"], _METADATA)
        and _only_marked(old["metadata"], new["metadata"], _MARKS)
    )


def _template(deployment: Object) -> Object:
    template: Object = deployment["spec"]["template"]
    return template


def _is_rollback(old: Object, new: Object) -> bool:
    return bool(_template(old)["spec"] != _template(new)["spec"])


def _harmless_restart(old: Object, new: Object) -> bool:
    if _is_rollback(old, new):
        return True
    before, after = _template(old).get("metadata", {}), _template(new).get("metadata", {})
    return _same(before, after, _METADATA) and _only_marked(before, after, _POD_MARKS)


def _for_rollbacks(rule: Rule) -> Rule:
    def holds(old: Object, new: Object) -> bool:
        return not _is_rollback(old, new) or rule(old, new)

    return holds


def _marked(old: Object, new: Object) -> bool:
    mark = new["metadata"].get("annotations", {}).get(_MARK)
    return mark is not None and mark != old["metadata"].get("annotations", {}).get(_MARK)


def _same_identity(old: Object, new: Object) -> bool:
    return _same(_template(old)["spec"], _template(new)["spec"], _POD_IDENTITY)


def _containers(deployment: Object) -> list[Object]:
    pod = _template(deployment)["spec"]
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def _repository(image: str) -> str:
    name = image.partition("@")[0]
    path, _, tag = name.rpartition(":")
    return name if not path or "/" in tag else path


def _same_repositories(old: Object, new: Object) -> bool:
    for kind in ("initContainers", "containers"):
        before, after = (
            [
                (container["name"], _repository(container.get("image", "")))
                for container in _template(deployment)["spec"].get(kind, [])
            ]
            for deployment in (old, new)
        )
        if before != after:
            return False
    return True


def _executed(container: Object) -> list[Any]:
    probes = [container.get(probe, {}).get("exec") for probe in _PROBES]
    return [*(container.get(field) for field in _EXECUTED), *probes]


def _same_execution(old: Object, new: Object) -> bool:
    before, after = _containers(old), _containers(new)
    return [_executed(c) for c in before] == [_executed(c) for c in after]


def _nothing_new(old: Object, new: Object) -> bool:
    before, after = _containers(old), _containers(new)
    known = {container["name"]: container for container in before}
    volumes = _template(old)["spec"].get("volumes", [])
    brought = _template(new)["spec"].get("volumes", [])
    return (
        all(volume in volumes or "configMap" in volume for volume in brought)
        and all(_nothing_new_in(known.get(c["name"], {}), c) for c in after)
        and [[c.get(field) for field in _BROUGHT] for c in before]
        == [[c.get(field) for field in _BROUGHT] for c in after]
    )


def _nothing_new_in(old: Object, new: Object) -> bool:
    plain = all("valueFrom" not in e or e in old.get("env", []) for e in new.get("env", []))
    ports = all(not p.get("hostPort") or p in old.get("ports", []) for p in new.get("ports", []))
    return plain and ports


def _bounded(old: Object, new: Object) -> bool:
    before, after = (o.get("spec", {}).get("replicas", 0) for o in (old, new))
    return bool(before == after or 1 <= after <= REPLICAS_MAX)


def _frozen_node(old: Object, new: Object) -> bool:
    return (
        _same(old.get("spec", {}), new.get("spec", {}), _NODE_SPEC)
        and _same(old["metadata"], new["metadata"], _METADATA)
        and _only_marked(old["metadata"], new["metadata"], _MARKS)
    )


DEPLOYMENTS = Policy(
    "aegis-executor-deployments",
    frozenset({"deployments"}),
    "Forbidden",
    (
        (
            "of a deployment only replicas, the pod template and our own mark may change",
            _frozen_deployment,
        ),
        ("a restart changes only our own marks of the pod template", _harmless_restart),
    ),
)
ROLLBACKS = Policy(
    "aegis-executor-rollbacks",
    frozenset({"deployments"}),
    "Forbidden",
    (
        ("a rollback leaves its action id on the deployment", _for_rollbacks(_marked)),
        (
            "a rollback keeps who the pods run as and what of the host they see",
            _for_rollbacks(_same_identity),
        ),
        (
            "a rollback keeps the containers and their image repositories",
            _for_rollbacks(_same_repositories),
        ),
        ("a rollback keeps what the containers execute", _for_rollbacks(_same_execution)),
        (
            "a rollback brings no other secret, volume or host port",
            _for_rollbacks(_nothing_new),
        ),
    ),
)
REPLICAS = Policy(
    "aegis-executor-replicas",
    frozenset({"deployments", "deployments/scale"}),
    "Invalid",
    ((f"the executor keeps replicas between 1 and {REPLICAS_MAX}", _bounded),),
)
NODES = Policy(
    "aegis-executor-nodes",
    frozenset({"nodes"}),
    "Forbidden",
    (("of a node only spec.unschedulable and our own mark may change", _frozen_node),),
)
POLICIES = (DEPLOYMENTS, ROLLBACKS, REPLICAS, NODES)


class Policies:
    """Admits or refuses what the executor's user wants to change, dry runs included."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def admit(self, ask: Ask, old: Object, new: Object) -> None:
        """Refused 403 or 422, as the real API server tells a policy's no."""
        if ask.user != EXECUTOR:
            return
        for policy in self._bound(ask):
            for message in policy.broken(old, new):
                raise _denied(ask, policy, message)

    def _bound(self, ask: Ask) -> Iterator[Policy]:
        namespace = self._objects.get("namespaces", "", ask.namespace) or {"metadata": {}}
        key, value = _OPT_OUT
        opted_out = namespace["metadata"].get("labels", {}).get(key) == value
        for policy in POLICIES:
            if ask.resource in policy.resources and not (policy is ROLLBACKS and opted_out):
                yield policy


def _denied(ask: Ask, policy: Policy, message: str) -> Refused:
    resource = ask.resource.partition("/")[0]
    group = group_of(resource)
    told = f"ValidatingAdmissionPolicy '{policy.name}' with binding '{policy.name}' denied request"
    return Refused(
        403 if policy.reason == "Forbidden" else 422,
        f'{resource}{"." if group else ""}{group} "{ask.name}" is forbidden: {told}: {message}',
        reason=policy.reason,
        details={"name": ask.name, "group": group, "kind": resource},
        causes=[("", "", f"{told}: {message}")],
    )
