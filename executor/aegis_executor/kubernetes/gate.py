"""What may leave for the cluster: a list of methods and paths, and where they may lead.

Every request passes `Gate`, whatever built it. What is not on the list never reaches the wire;
writes are validated strictly by the API server (an unknown field would otherwise be dropped with
a mere warning). A test holds the Roles in deploy/kubernetes to this list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from aegis_executor.catalogue.base import ACTION_ID
from aegis_executor.kubernetes.errors import ForbiddenRequest

Routes = tuple[tuple[str, str], ...]

_APPS = "/apis/apps/v1/namespaces/{namespace}"
_CORE = "/api/v1/namespaces/{namespace}"
_EVENTS = "/apis/events.k8s.io/v1/namespaces/{namespace}/events"
_BUDGETS = "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
_AUTOSCALERS = "/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers"

ROUTES: Routes = (
    ("GET", f"{_CORE}/pods"),
    ("GET", f"{_CORE}/pods/{{name}}"),
    ("POST", f"{_CORE}/pods/{{name}}/eviction"),
    ("GET", f"{_APPS}/deployments"),
    ("GET", f"{_APPS}/deployments/{{name}}"),
    ("PATCH", f"{_APPS}/deployments/{{name}}"),
    ("PATCH", f"{_APPS}/deployments/{{name}}/scale"),
    ("GET", f"{_APPS}/replicasets"),
    ("GET", _BUDGETS),
    ("GET", _AUTOSCALERS),
    ("POST", _EVENTS),
)
# Only where the executor was told to: an eviction respects disruption budgets, this does not.
DELETE_ROUTES: Routes = (("DELETE", f"{_CORE}/pods/{{name}}"),)
# Only for the nodes the executor was told; an event on a node belongs into `default`.
NODE_ROUTES: Routes = (
    ("GET", "/api/v1/nodes/{name}"),
    ("PATCH", "/api/v1/nodes/{name}"),
)
NODE_EVENT_ROUTES: Routes = (("POST", _EVENTS),)
NODE_EVENT_NAMESPACE = "default"

_NAME = r"[a-z0-9][a-z0-9.-]*"
_QUERY = frozenset({"continue", "dryRun", "fieldManager", "labelSelector", "limit"})
_PINS = frozenset({"/metadata/uid", "/metadata/resourceVersion"})
_NODE_PATHS = _PINS | {
    "/spec/unschedulable",
    "/metadata/annotations/" + ACTION_ID.replace("/", "~1"),
}


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes an executor may cordon: those named, or every one."""

    names: frozenset[str] = frozenset()
    every: bool = False

    def __contains__(self, name: object) -> bool:
        return self.every or name in self.names

    def __bool__(self) -> bool:
        return self.every or bool(self.names)


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the executor's arm reaches, whatever it is asked."""

    namespaces: frozenset[str]
    nodes: Nodes = field(default_factory=Nodes)
    delete_pods: bool = False


class Gate(httpx2.AsyncBaseTransport):
    """The choke point: lets through what is on the list, as far as `reach` goes."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, reach: Reach) -> None:
        self._inner = inner
        self._routes = _patterns(reach)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends an allowed request; raises `ForbiddenRequest` for any other."""
        self._check(request)
        if request.method in ("POST", "PATCH"):
            url = request.url.copy_set_param("fieldValidation", "Strict")
            request = httpx2.Request(
                request.method,
                url,
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions,
            )
        return await self._inner.handle_async_request(request)

    def _check(self, request: httpx2.Request) -> None:
        # The raw path is what travels: an encoded slash must not look like a part of a name.
        path = request.url.raw_path.partition(b"?")[0].decode("ascii")
        allowed = any(
            method == request.method
            and (match := pattern.fullmatch(path))
            and all(match[name] in allowed for name, allowed in within.items())
            for method, pattern, within in self._routes
        )
        if not allowed or not _QUERY.issuperset(request.url.params.keys()):
            raise ForbiddenRequest(f"{request.method} {path}")
        if request.method == "PATCH" and path.startswith("/api/v1/nodes/"):
            _check_node_patch(request)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._inner.aclose()


def _patterns(
    reach: Reach,
) -> list[tuple[str, re.Pattern[str], Mapping[str, frozenset[str] | Nodes]]]:
    lists: list[tuple[Routes, Mapping[str, frozenset[str] | Nodes]]]
    lists = [(ROUTES, {"namespace": reach.namespaces})]
    if reach.delete_pods:
        lists.append((DELETE_ROUTES, {"namespace": reach.namespaces}))
    if reach.nodes:
        lists.append((NODE_ROUTES, {"name": reach.nodes}))
        lists.append((NODE_EVENT_ROUTES, {"namespace": frozenset({NODE_EVENT_NAMESPACE})}))
    return [
        (method, re.compile(_expression(path)), within)
        for routes, within in lists
        for method, path in routes
    ]


def _expression(path: str) -> str:
    return re.sub(r"\\{(\w+)\\}", rf"(?P<\1>{_NAME})", re.escape(path))


def _check_node_patch(request: httpx2.Request) -> None:
    """RBAC cannot name fields, and a node has worse ones than this: labels, taints, addresses."""
    try:
        patch = json.loads(request.content)
    except (ValueError, httpx2.RequestNotRead) as error:
        raise ForbiddenRequest("the patch of a node cannot be read") from error
    operations = patch if isinstance(patch, list) else []
    paths = {op.get("path") for op in operations if _may_be_patched(op)}
    if not paths >= _PINS or not all(map(_may_be_patched, operations)):
        raise ForbiddenRequest("of a node only spec.unschedulable may be patched")


def _may_be_patched(operation: Any) -> bool:
    if not isinstance(operation, dict) or operation.get("op") not in ("add", "replace"):
        return False
    if operation.get("path") == "/metadata/annotations":
        value = operation.get("value")
        return isinstance(value, dict) and value.keys() == {ACTION_ID}
    return operation.get("path") in _NODE_PATHS
