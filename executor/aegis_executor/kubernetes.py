"""The only way to the cluster: lightkube behind a gate that knows what may leave.

Every request passes `Gate`, whatever built it. What is not on its list never reaches the wire;
writes are validated strictly by the API server (an unknown field would otherwise be dropped with
a mere warning); every answer's Audit-Id is kept, because it is the key to the API server's own
record. Messages of the API server are not kept: a 422 quotes the whole object, secrets included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.config.client_adapter import verify_cluster
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.meta_v1 import DeleteOptions, ObjectMeta, Preconditions
from lightkube.resources.core_v1 import PodEviction
from lightkube.types import PatchType

from aegis_executor.remediations import Change, Object

FIELD_MANAGER = "aegis-executor"

# Untyped on purpose: typed models drop the fields they do not know.
_Pod = create_namespaced_resource("", "v1", "Pod", "pods")
_Deployment = create_namespaced_resource("apps", "v1", "Deployment", "deployments")
_ReplicaSet = create_namespaced_resource("apps", "v1", "ReplicaSet", "replicasets")

_NAME = r"[a-z0-9][a-z0-9.-]*"
_ALLOWED = (
    ("GET", rf"/api/v1/namespaces/(?P<namespace>{_NAME})/pods/{_NAME}"),
    ("POST", rf"/api/v1/namespaces/(?P<namespace>{_NAME})/pods/{_NAME}/eviction"),
    ("GET", rf"/apis/apps/v1/namespaces/(?P<namespace>{_NAME})/deployments/{_NAME}"),
    ("PATCH", rf"/apis/apps/v1/namespaces/(?P<namespace>{_NAME})/deployments/{_NAME}"),
    ("PATCH", rf"/apis/apps/v1/namespaces/(?P<namespace>{_NAME})/deployments/{_NAME}/scale"),
    ("GET", rf"/apis/apps/v1/namespaces/(?P<namespace>{_NAME})/replicasets"),
)
_PATTERNS = tuple((method, re.compile(path)) for method, path in _ALLOWED)

_audit_id: ContextVar[str] = ContextVar("aegis_kubernetes_audit_id", default="")


@dataclass(frozen=True, slots=True)
class ClusterRefused(Exception):
    """The API server answered no; nothing was changed. `fields` are the causes' fields."""

    code: int
    reason: str
    fields: tuple[str, ...]
    audit_id: str


class ClusterUnreachable(Exception):
    """No connection: nothing was sent."""


class ClusterSilent(Exception):
    """Sent, but no clear answer: whether it took effect is not known."""


class ForbiddenRequest(Exception):
    """Something built a request the executor must never send; it was not sent."""


class Gate(httpx2.AsyncBaseTransport):
    """The choke point: lets through what is on the list, for the allowed namespaces."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, namespaces: frozenset[str]) -> None:
        self._inner = inner
        self._namespaces = namespaces

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends an allowed request; raises `ForbiddenRequest` for any other.

        Raises `ClusterSilent` for answers that say nothing: an API server in trouble, a proxy.
        """
        self._check(request)
        if request.method != "GET":
            url = request.url.copy_set_param("fieldValidation", "Strict")
            request = httpx2.Request(
                request.method,
                url,
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )
        response = await self._inner.handle_async_request(request)
        _audit_id.set(response.headers.get("Audit-Id", ""))
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        if response.status_code >= 500 or kind != "application/json":
            await response.aclose()
            raise ClusterSilent(f"status {response.status_code}, {kind or 'no type'}")
        return response

    def _check(self, request: httpx2.Request) -> None:
        # The raw path is what travels: an encoded slash must not look like a part of a name.
        path = request.url.raw_path.partition(b"?")[0].decode("ascii")
        for method, pattern in _PATTERNS:
            match = pattern.fullmatch(path)
            if method == request.method and match and match["namespace"] in self._namespaces:
                return
        raise ForbiddenRequest(f"{request.method} {path}")

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._inner.aclose()


class Kubernetes:
    """One cluster, for the namespaces the executor is responsible for.

    Reads return JSON objects, or None for what is not there. All raise `ClusterRefused`,
    `ClusterUnreachable` or `ClusterSilent`.
    """

    def __init__(
        self, kubeconfig: Path, *, namespaces: frozenset[str], timeout_seconds: float = 10.0
    ) -> None:
        config = KubeConfig.from_file(kubeconfig).get()
        if config is None or config.user is None:
            raise ValueError(f"{kubeconfig} names no user")
        if not config.cluster.server.startswith("https://") or config.cluster.insecure:
            raise ValueError(f"{kubeconfig}: the cluster must prove itself with a certificate")
        context = verify_cluster(config.cluster, config.user, config.abs_file, trust_env=False)
        wire = httpx2.AsyncHTTPTransport(verify=context, trust_env=False, retries=0)
        self._client = AsyncClient(
            config=config,
            timeout=httpx2.Timeout(timeout_seconds),
            field_manager=FIELD_MANAGER,
            trust_env=False,
            transport=Gate(wire, namespaces),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def pod(self, namespace: str, name: str) -> Object | None:
        """Reads a pod."""
        return await self._read(_Pod, namespace, name)

    async def deployment(self, namespace: str, name: str) -> Object | None:
        """Reads a deployment."""
        return await self._read(_Deployment, namespace, name)

    async def replica_sets(self, namespace: str, labels: Mapping[str, str]) -> Sequence[Object]:
        """Reads the ReplicaSets that carry these labels."""
        try:
            found = self._client.list(_ReplicaSet, namespace=namespace, labels=dict(labels))
            return [_plain(item) async for item in found]
        except httpx2.HTTPError as error:
            raise _translated(error) from error

    async def apply(self, change: Change) -> str:
        """Makes one change; returns the Audit-Id of the API server's record of it."""
        try:
            match change.verb:
                case "evict":
                    await self._client.create(
                        _eviction(change), change.name, namespace=change.namespace
                    )
                case "scale":
                    pinned = {"uid": change.uid, "resourceVersion": change.resource_version}
                    await self._client.patch(
                        _Deployment.Scale,
                        change.name,
                        {"metadata": pinned, **change.body},
                        namespace=change.namespace,
                        patch_type=PatchType.MERGE,
                    )
                case "patch":
                    await self._client.patch(
                        _Deployment,
                        change.name,
                        change.body,
                        namespace=change.namespace,
                        patch_type=PatchType.JSON,
                    )
        except httpx2.HTTPError as error:
            raise _translated(error) from error
        return _audit_id.get()

    async def _read(self, kind: Any, namespace: str, name: str) -> Object | None:
        try:
            return _plain(await self._client.get(kind, name, namespace=namespace))
        except ApiError as error:
            if error.response.status_code == 404:
                return None
            raise _translated(error) from error
        except httpx2.HTTPError as error:
            raise _translated(error) from error


def _plain(found: Any) -> Object:
    return dict(found)


def _eviction(change: Change) -> PodEviction:
    return PodEviction(
        metadata=ObjectMeta(name=change.name, namespace=change.namespace),
        deleteOptions=DeleteOptions(
            gracePeriodSeconds=change.body, preconditions=Preconditions(uid=change.uid)
        ),
    )


def _translated(error: httpx2.HTTPError) -> Exception:
    if isinstance(error, ApiError):
        status = error.status
        causes = (status.details.causes if status.details else None) or []
        return ClusterRefused(
            code=error.response.status_code,
            reason=status.reason or "",
            fields=tuple(cause.field or cause.reason or "" for cause in causes),
            audit_id=_audit_id.get(),
        )
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return ClusterUnreachable(type(error).__name__)
    return ClusterSilent(type(error).__name__)
