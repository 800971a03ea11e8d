"""Clusters to hold the executor to: the sandbox always, a real one where there is one.

`AEGIS_TEST_KUBECONFIG` names a kube-apiserver (1.30 or newer) and an administrator of it; it should
be a cluster of its own. Each test gets a namespace `aegis-contract-…` there, removed at its end; so
are the account and the policies of deploy/kubernetes unless they were there before. A controller
manager is used when one answers. Where there are no nodes, we play the kubelet.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import uuid
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from lightkube import KubeConfig
from lightkube.config.client_adapter import user_auth, verify_cluster

from aegis_executor.kubernetes import Kubernetes, Nodes, Reach, configuration
from aegis_sandbox.access import EXECUTOR
from aegis_sandbox.scenario import EXECUTOR_NODES, deployment
from tests import realcluster
from tests.processes import Process

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json-patch+json"
REAL = os.environ.get("AEGIS_TEST_KUBECONFIG", "")
TARGETS = ["sandbox", *(["cluster"] if REAL else [])]
_SECONDS = 60.0

Object = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a target is: two kubeconfigs, and whether it is the sandbox."""

    administrator: Path
    executor: Path
    is_sandbox: bool


@dataclass
class Target:
    """A cluster with a namespace of ours and a deployment `web` in it."""

    place: Place
    client: httpx2.AsyncClient
    executor: httpx2.AsyncClient
    namespace: str
    controlled: bool = True

    @property
    def is_sandbox(self) -> bool:
        return self.place.is_sandbox

    @property
    def web(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/web"

    @property
    def pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    @asynccontextmanager
    async def port(
        self, *, seconds: float = 10.0, namespace: str = "", **reach: Any
    ) -> AsyncIterator[Kubernetes]:
        """The executor's port, with its own credentials."""
        wide = Reach(frozenset({namespace or self.namespace}), **reach)
        config = configuration(self.place.executor, "")
        port = Kubernetes(config, reach=wide, timeout_seconds=seconds)
        try:
            yield port
        finally:
            await port.close()

    async def get(self, path: str) -> Object:
        response = await self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    async def make(self, path: str, wanted: Object) -> Object:
        response = await self.client.post(path, json=wanted)
        assert response.status_code == 201, response.text
        return response.json()

    async def patch(self, path: str, patch: Any, kind: str = MERGE, **query: str):
        return await self._patch(self.client, path, patch, kind, query)

    async def steal(self, path: str, patch: Any, kind: str = MERGE, **query: str):
        """A patch with the executor's credentials, past the executor."""
        return await self._patch(self.executor, path, patch, kind, query)

    async def _patch(
        self, client: httpx2.AsyncClient, path: str, patch: Any, kind: str, query: dict[str, str]
    ):
        headers = {"Content-Type": kind}
        return await client.patch(path, content=json.dumps(patch), headers=headers, params=query)

    async def until(self, path: str, true: Callable[[Object], Any]) -> Object:
        async with asyncio.timeout(_SECONDS):
            while not true(found := await self.get(path)):
                await asyncio.sleep(0.02)
        return found

    def needs_controllers(self) -> None:
        if not self.controlled:
            pytest.skip("no controller manager answers in this cluster")

    def needs_sandbox(self) -> None:
        if not self.is_sandbox:
            pytest.skip("only the sandbox breaks on purpose")

    async def settled(self) -> Object:
        """The only honest test of "done": observed, and all the numbers agree."""
        self.needs_controllers()
        return await self.until(self.web, done)

    async def still(self) -> Object:
        """The deployment, once nobody works on it any more."""
        return await (self.settled() if self.controlled else self.get(self.web))

    async def pod(self) -> Object:
        await self.settled()
        found = await self.get(f"{self.pods}?labelSelector=app=web")
        return next(p for p in found["items"] if "deletionTimestamp" not in p["metadata"])

    async def evict(self, pod: Object, *, uid: str = "", **options: Any):
        name = pod["metadata"]["name"]
        preconditions = {"uid": uid or pod["metadata"]["uid"]}
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": self.namespace},
            "deleteOptions": {"preconditions": preconditions, **options},
        }
        return await self.client.post(f"{self.pods}/{name}/eviction", json=eviction)

    async def budget(self, name: str, available_min: int) -> None:
        """Makes a disruption budget for `web` and waits until it is counted."""
        self.needs_controllers()
        path = f"/apis/policy/v1/namespaces/{self.namespace}/poddisruptionbudgets"
        budget = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": name},
            "spec": {"minAvailable": available_min, "selector": {"matchLabels": {"app": "web"}}},
        }
        await self.make(path, budget)
        await self.until(
            path,
            lambda found: all(b.get("status", {}).get("expectedPods") for b in found["items"]),
        )

    async def fault(self, where: str, **told: Any) -> None:
        """Orders that one request of the executor goes wrong."""
        self.needs_sandbox()
        response = await self.client.post("/sandbox/fault", json={"where": where, **told})
        assert response.status_code == 200, response.text

    async def effects(self, name: str) -> list[Object]:
        """What the executor changed of an object or a pod of it, by the sandbox's own ledger."""
        writes = (await self.get("/sandbox/ledger"))["writes"]
        return [
            write
            for write in writes
            if write["changed"]
            and write["user"] == EXECUTOR
            and write["name"] == name
            and write["namespace"] == self.namespace
        ]

    @asynccontextmanager
    async def node(self) -> AsyncIterator[tuple[Object, Nodes]]:
        """A node that the executor may cordon, schedulable before and after."""
        if self.is_sandbox:
            name = EXECUTOR_NODES[1]
            try:
                yield await self.get(f"/api/v1/nodes/{name}"), Nodes(frozenset({name}))
            finally:
                await self.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": None}})
            return
        name = f"{self.namespace}-node"
        wanted = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        async with AsyncExitStack() as stack:
            found = await self.make("/api/v1/nodes", wanted)
            stack.push_async_callback(self.client.delete, f"/api/v1/nodes/{name}")
            for path in await realcluster.grant_node(self, name):
                stack.push_async_callback(self.client.delete, path)
            yield found, Nodes(frozenset({name}))


def done(found: Object) -> bool:
    status, wanted = found.get("status", {}), found["spec"]["replicas"]
    counts = {status.get(k, 0) for k in ("replicas", "updatedReplicas", "availableReplicas")}
    observed = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
    return observed and counts == {wanted}


def condition(found: Object, kind: str) -> Object:
    conditions = found.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {"status": "", "reason": ""})


@contextlib.contextmanager
def sandbox_place(home: Path) -> Iterator[Place]:
    """One sandbox for many tests; each has its own namespace, as in a real cluster."""
    program = Process(home, "aegis_sandbox", "--home", str(home), "--tick-seconds", "0.01")
    yield Place(home / "admin.kubeconfig", home / "kubeconfig", is_sandbox=True)
    assert program.stop() == 0


@contextlib.contextmanager
def real_place(home: Path) -> Iterator[Place]:
    """The cluster of AEGIS_TEST_KUBECONFIG, with the executor's account and its policies in it."""
    administrator = Path(REAL)
    config = KubeConfig.from_file(administrator).get()
    made: list[str] = []
    with httpx2.Client(**_parameters(config)) as client:
        try:
            for path, document in realcluster.installed():
                response = client.post(path, json=document)
                assert response.status_code in (201, 409), response.text
                if response.status_code == 201:
                    made.append(f"{path}/{document['metadata']['name']}")
            account = "/api/v1/namespaces/aegis-system/serviceaccounts/aegis-executor/token"
            asked = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1"}
            told = client.post(account, json={**asked, "spec": {"expirationSeconds": 7200}})
            assert told.status_code == 201, told.text
            kubeconfig = realcluster.with_token(administrator, told.json()["status"]["token"])
            (home / "kubeconfig").write_text(json.dumps(kubeconfig))
            yield Place(administrator, home / "kubeconfig", is_sandbox=False)
        finally:
            for path in reversed(made):
                client.delete(path)


def _parameters(config: Any) -> dict[str, Any]:
    return {
        "base_url": config.cluster.server,
        "verify": verify_cluster(config.cluster, config.user, config.abs_file),
        "auth": user_auth(config.user),
        "trust_env": False,
        "timeout": 10,
    }


def client_of(kubeconfig: Path) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(**_parameters(KubeConfig.from_file(kubeconfig).get()))


def account_folder(place: Place, folder: Path) -> Path:
    """Lays out the CA as the kubelet mounts it; the token is the test's to write."""
    cluster = KubeConfig.from_file(place.executor).get().cluster
    content = cluster.certificate_auth_data
    authority = b64decode(content) if content else Path(cluster.certificate_auth).read_bytes()
    (folder / "ca.crt").write_bytes(authority)
    return folder


@asynccontextmanager
async def prepared(place: Place, labels: dict[str, str] | None = None) -> AsyncIterator[Target]:
    """A namespace with `web` in it and the executor's Role, settled; removed afterwards."""
    namespace = f"aegis-contract-{uuid.uuid4().hex[:8]}"
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(client_of(place.administrator))
        executor = await stack.enter_async_context(client_of(place.executor))
        target = Target(place, client, executor, namespace)
        metadata = {"name": namespace, "labels": labels or {}}
        wanted = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        await target.make("/api/v1/namespaces", wanted)
        # Of the sandbox only the deployment is removed; a namespace's end is not modelled there.
        stack.push_async_callback(client.delete, f"/api/v1/namespaces/{namespace}")
        web = deployment(namespace, "web", 3, "registry.k8s.io/pause:3.9")
        web["spec"]["template"]["spec"]["containers"][1]["image"] = "registry.k8s.io/pause:3.10"
        await target.make(target.web.rpartition("/")[0], web)
        stack.push_async_callback(client.delete, target.web)
        await _grant(target)
        if not place.is_sandbox:
            await realcluster.begin(target, stack)
        if target.controlled:
            await target.settled()
        yield target


async def _grant(target: Target) -> None:
    if target.is_sandbox:
        told = {"namespace": target.namespace}
        assert (await target.client.post("/sandbox/grant", json=told)).status_code == 200
    else:
        await realcluster.grant(target)
