"""What a real cluster needs before the suite can ask it, from the manifests that are shipped.

The account and the policies once; the Roles in each test's namespace. Then it is found out who else
is at work: no controller manager leaves some tests out, no nodes makes us play the kubelet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests import targets

if TYPE_CHECKING:
    from tests.targets import Target

Object = dict[str, Any]

DEPLOY = Path(__file__).resolve().parents[1] / "deploy" / "kubernetes"
_CONTROLLER_SECONDS = 15.0
_SECONDS = 60.0


def installed() -> Iterator[tuple[str, Object]]:
    yield (
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "aegis-system"}},
    )
    for document in _documents(DEPLOY / "executor-role.yaml"):
        if document["kind"] == "ServiceAccount":
            yield "/api/v1/namespaces/aegis-system/serviceaccounts", document
    admission = "/apis/admissionregistration.k8s.io/v1"
    for document in _documents(DEPLOY / "executor-policies.yaml"):
        bound = document["kind"].endswith("Binding")
        ending = "policybindings" if bound else "policies"
        yield f"{admission}/validatingadmission{ending}", document


def _documents(path: Path) -> list[Object]:
    return list(yaml.safe_load_all(path.read_text()))


def with_token(kubeconfig: Path, token: str) -> Object:
    told = yaml.safe_load(kubeconfig.read_text())
    current = told["current-context"]
    context = next(c["context"] for c in told["contexts"] if c["name"] == current)
    cluster = next(c for c in told["clusters"] if c["name"] == context["cluster"])
    authority = cluster["cluster"].get("certificate-authority")
    if authority:
        cluster["cluster"]["certificate-authority"] = str(kubeconfig.parent / authority)
    return {
        **told,
        "contexts": [{"name": current, "context": {**context, "user": "executor"}}],
        "clusters": [cluster],
        "users": [{"name": "executor", "user": {"token": token}}],
    }


async def grant(target: Target) -> None:
    for file in ("executor-role.yaml", "components/delete-pods/role.yaml"):
        for kind in ("Role", "RoleBinding"):
            document = next(d for d in _documents(DEPLOY / file) if d["kind"] == kind)
            document["metadata"]["namespace"] = target.namespace
            base = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{target.namespace}"
            await target.make(f"{base}/{kind.lower()}s", document)
    wanted = {"verb": "list", "group": "apps", "resource": "deployments"}
    await _until_granted(target, {**wanted, "namespace": target.namespace})


async def grant_node(target: Target, name: str) -> list[str]:
    """Makes the component `nodes` for one node; returns what is to be removed afterwards."""
    documents = _documents(DEPLOY / "components" / "nodes" / "role.yaml")
    made = [await _make_for(target, document, name) for document in documents]
    await _until_granted(target, {"verb": "patch", "resource": "nodes", "name": name})
    return made


async def _make_for(target: Target, document: Object, name: str) -> str:
    base = "/apis/rbac.authorization.k8s.io/v1"
    within = document["metadata"].get("namespace")
    if within:
        base = f"{base}/namespaces/{within}"
    for rule in document.get("rules", []):
        if "resourceNames" in rule:
            rule["resourceNames"] = [name]
    document["metadata"]["name"] = name
    if "roleRef" in document:
        document["roleRef"]["name"] = name
    path = f"{base}/{document['kind'].lower()}s"
    await target.make(path, document)
    return f"{path}/{name}"


async def _until_granted(target: Target, attributes: Object) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    async with asyncio.timeout(_SECONDS):
        while not (await target.executor.post(path, json=review)).json()["status"]["allowed"]:
            await asyncio.sleep(0.05)


async def begin(target: Target, stack: AsyncExitStack) -> None:
    """Finds out who else is at work, waits for the policies, and plays the kubelet if need be."""
    nobody = {"spec": {"replicas": 0}}
    async with asyncio.timeout(_SECONDS):
        while (await target.steal(target.web, nobody, dryRun="All")).status_code != 422:
            await asyncio.sleep(0.1)
    try:
        async with asyncio.timeout(_CONTROLLER_SECONDS):
            await target.until(
                target.web, lambda found: found.get("status", {}).get("observedGeneration")
            )
    except TimeoutError:
        target.controlled = False
        return
    if not (await target.get("/api/v1/nodes"))["items"]:
        kubelet = asyncio.create_task(_play_kubelet(target))
        stack.push_async_callback(asyncio.wait, [kubelet])
        stack.callback(kubelet.cancel)


async def _play_kubelet(target: Target) -> None:
    """Pods become ready at once and end when they are told to."""
    ready = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")]
    while True:
        for pod in (await target.get(target.pods))["items"]:
            path = f"{target.pods}/{pod['metadata']['name']}"
            images = [container["image"] for container in pod["spec"]["containers"]]
            if "deletionTimestamp" in pod["metadata"]:
                await target.client.delete(path, params={"gracePeriodSeconds": "0"})
            elif targets.condition(pod, "Ready")["status"] != "True" and not any(
                "does-not-exist" in image for image in images
            ):
                status = {"phase": "Running", "conditions": ready}
                await target.patch(f"{path}/status", {"status": status})
        await asyncio.sleep(0.1)
