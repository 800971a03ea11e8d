"""What a fresh sandbox holds: a few deployments, each with an earlier revision to return to."""

from __future__ import annotations

from aegis_sandbox import schema
from aegis_sandbox.controllers import Controllers
from aegis_sandbox.objects import Objects
from aegis_sandbox.status import Object

# Where the executor's Role reaches; `payments` and `kube-system` are there to be refused.
EXECUTOR_NAMESPACES = ("demo", "shop")

# The third node is there to be refused.
EXECUTOR_NODES = ("node-a", "node-b")
_NODES = (*EXECUTOR_NODES, "node-c")

# (namespace, name, replicas, minAvailable of a disruption budget or None)
_DEPLOYMENTS = (
    ("demo", "web", 3, 2),
    ("demo", "api", 2, None),
    ("shop", "checkout", 3, None),
    ("shop", "cart", 1, 1),
    ("payments", "ledger", 2, 1),
    ("kube-system", "coredns", 2, 1),
)


def deployment(namespace: str, name: str, replicas: int, image: str) -> Object:
    """Returns the manifest of a small deployment with a sidecar."""
    labels = {"app": name}
    return {
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": dict(labels)},
            "template": {
                "metadata": {"labels": dict(labels)},
                "spec": {
                    "containers": [
                        {"name": name, "image": image},
                        {"name": "proxy", "image": "registry.example/proxy:1"},
                    ]
                },
            },
        },
    }


def seed(objects: Objects, controllers: Controllers) -> None:
    """Fills an empty sandbox and lets it settle."""
    for name in _NODES:
        objects.create("nodes", _node(name))
    for namespace in dict.fromkeys(("default", *(namespace for namespace, *_ in _DEPLOYMENTS))):
        objects.create(
            "namespaces",
            {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": namespace}},
        )
    for namespace, name, replicas, available_min in _DEPLOYMENTS:
        wanted = deployment(namespace, name, replicas, f"registry.example/{name}:1.0")
        objects.create("deployments", schema.with_defaults(wanted))
        if available_min is not None:
            objects.create("poddisruptionbudgets", _budget(namespace, name, available_min))
    controllers.settle()
    for namespace, name, *_ in _DEPLOYMENTS:
        current = objects.get("deployments", namespace, name)
        if current is not None:
            containers = current["spec"]["template"]["spec"]["containers"]
            containers[0]["image"] = f"registry.example/{name}:1.1"
            objects.update("deployments", current)
    controllers.settle()


def _node(name: str) -> Object:
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": f"10.244.{_NODES.index(name)}.0/24"},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]},
    }


def _budget(namespace: str, name: str, available_min: int) -> Object:
    return {
        "kind": "PodDisruptionBudget",
        "apiVersion": "policy/v1",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"minAvailable": available_min, "selector": {"matchLabels": {"app": name}}},
    }
