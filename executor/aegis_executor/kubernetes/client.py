"""The only way to the cluster: plain JSON over HTTPS, each request through the gate.

Typed models are left out on purpose: they silently drop the fields they do not know. Nothing is
sent twice from here; who wants to try again has to look at the cluster first. Every write is
pinned to the uid and version that were read, and its Audit-Id is kept: the key to the API
server's own record.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx2
from lightkube.config.kubeconfig import SingleConfig

from aegis_executor.catalogue.base import ACTION_ID, Change, Kind, Object, Place
from aegis_executor.kubernetes import errors
from aegis_executor.kubernetes.config import auth_of, tls_of
from aegis_executor.kubernetes.errors import ClusterRefused, ClusterSilent, ClusterUnreachable
from aegis_executor.kubernetes.gate import NODE_EVENT_NAMESPACE, Gate, Reach

log = logging.getLogger(__name__)

FIELD_MANAGER = "aegis-executor"
_JSON_PATCH = "application/json-patch+json"
_MERGE_PATCH = "application/merge-patch+json"
_PAGE = 500
_PAGES_MAX = 40
_EVENT_SECONDS = 3.0
_NOTE_CHARACTERS_MAX = 1000

_BASES = {
    Kind.POD: ("/api/v1", "pods"),
    Kind.DEPLOYMENT: ("/apis/apps/v1", "deployments"),
    Kind.NODE: ("/api/v1", "nodes"),
}
# What an event says it is about.
_REFERENCES = {
    Kind.POD: ("v1", "Pod"),
    Kind.DEPLOYMENT: ("apps/v1", "Deployment"),
    Kind.NODE: ("v1", "Node"),
}


@dataclass(frozen=True, slots=True)
class _Reply:
    body: dict[str, Any]
    audit_id: str
    warnings: list[str]


class Kubernetes:
    """One cluster, as far as the executor may reach in it.

    Reads return JSON objects, or None for what is not there. All raise `ClusterRefused`,
    `ClusterUnreachable` or `ClusterSilent`, and `ForbiddenRequest` beyond the reach.
    """

    def __init__(
        self, config: SingleConfig, *, reach: Reach, timeout_seconds: float = 10.0
    ) -> None:
        wire = httpx2.AsyncHTTPTransport(verify=tls_of(config), trust_env=False, retries=0)
        self._timeout_seconds = timeout_seconds
        self._client = httpx2.AsyncClient(
            base_url=config.cluster.server,
            auth=auth_of(config),
            timeout=httpx2.Timeout(timeout_seconds),
            trust_env=False,
            follow_redirects=False,
            transport=Gate(wire, reach),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def pod(self, namespace: str, name: str) -> Object | None:
        """Reads a pod."""
        return await self._read("Pod", _path(Place(Kind.POD, namespace, name)))

    async def pods(self, namespace: str, labels: Mapping[str, str]) -> Sequence[Object]:
        """Reads the pods that carry these labels."""
        return await self._list("PodList", f"/api/v1/namespaces/{quote(namespace)}/pods", labels)

    async def deployment(self, namespace: str, name: str) -> Object | None:
        """Reads a deployment."""
        return await self._read("Deployment", _path(Place(Kind.DEPLOYMENT, namespace, name)))

    async def deployments(self, namespace: str) -> Sequence[Object]:
        """Reads all deployments of a namespace."""
        path = f"/apis/apps/v1/namespaces/{quote(namespace)}/deployments"
        return await self._list("DeploymentList", path)

    async def replica_sets(self, namespace: str, labels: Mapping[str, str]) -> Sequence[Object]:
        """Reads the ReplicaSets that carry these labels."""
        path = f"/apis/apps/v1/namespaces/{quote(namespace)}/replicasets"
        return await self._list("ReplicaSetList", path, labels)

    async def budgets(self, namespace: str) -> Sequence[Object]:
        """Reads the disruption budgets of a namespace."""
        path = f"/apis/policy/v1/namespaces/{quote(namespace)}/poddisruptionbudgets"
        return await self._list("PodDisruptionBudgetList", path)

    async def autoscalers(self, namespace: str) -> Sequence[Object]:
        """Reads the HorizontalPodAutoscalers of a namespace."""
        path = f"/apis/autoscaling/v2/namespaces/{quote(namespace)}/horizontalpodautoscalers"
        return await self._list("HorizontalPodAutoscalerList", path)

    async def node(self, name: str) -> Object | None:
        """Reads a node."""
        return await self._read("Node", _path(Place(Kind.NODE, "", name)))

    async def apply(self, change: Change) -> str:
        """Makes one change; returns the Audit-Id of the API server's record of it."""
        return (await self._write(change, dry=False)).audit_id

    async def dry_run(self, change: Change) -> tuple[Object | None, list[str]]:
        """Lets the API server do everything but store it.

        Returns the object as it would be (of a scale: the Scale; of an eviction or deletion:
        None) and the API server's warnings. Admission and budgets say no here as they would then.
        """
        reply = await self._write(change, dry=True)
        gone = change.verb in ("evict", "delete")
        return None if gone else reply.body, reply.warnings

    async def record_event(
        self, place: Place, uid: str, reason: str, message: str, action_id: str
    ) -> None:
        """Leaves an Event on the object for whoever looks at it with kubectl.

        Best effort: it never raises, gives up after a few seconds, and one that is there already
        (the same action and reason) is not made twice.
        """
        namespace = place.namespace or NODE_EVENT_NAMESPACE
        path = f"/apis/events.k8s.io/v1/namespaces/{quote(namespace)}/events"
        event = _event(place, uid, reason, message, action_id)
        try:
            async with asyncio.timeout(_EVENT_SECONDS):
                await self._ask("POST", path, event, {"fieldManager": FIELD_MANAGER})
        except ClusterRefused as refused:
            if refused.reason != "AlreadyExists":
                log.info("no event on %s: %s", place, refused)
        except (ClusterSilent, ClusterUnreachable, TimeoutError, errors.ForbiddenRequest) as error:
            log.info("no event on %s: %s", place, error)

    async def _write(self, change: Change, *, dry: bool) -> _Reply:
        reply = await self._sent(change, dry=dry)
        # A success of somebody else's, e.g. of a proxy, says nothing of what became of the change.
        if reply.body.get("kind") not in _answers(change):
            raise ClusterSilent(f"asked to {change.verb}, answered with something else")
        return reply

    async def _sent(self, change: Change, *, dry: bool) -> _Reply:
        path = _path(change.place)
        query = {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry else {})}
        match change.verb:
            case "evict":
                # The dry run of an eviction is asked in its body; twice would have to agree.
                body = _eviction(change, dry=dry)
                return await self._ask("POST", f"{path}/eviction", body, {})
            case "delete":
                # A DELETE with a body takes all its options from there.
                return await self._ask("DELETE", path, _deletion(change, dry=dry), {})
            case "scale":
                body = _pinned_merge(change)
                return await self._ask("PATCH", f"{path}/scale", body, query, _MERGE_PATCH)
            case "patch" if isinstance(change.body, Mapping):
                return await self._ask("PATCH", path, _pinned_merge(change), query, _MERGE_PATCH)
            case "patch":
                operations = [*_pins(change), *change.body]
                return await self._ask("PATCH", path, operations, query, _JSON_PATCH)

    async def _read(self, kind: str, path: str) -> Object | None:
        try:
            reply = await self._ask("GET", path)
        except ClusterRefused as refused:
            if refused.code == 404:
                return None
            raise
        return _of_kind(kind, reply.body)

    async def _list(
        self, kind: str, path: str, labels: Mapping[str, str] | None = None
    ) -> Sequence[Object]:
        try:
            return await self._pages(kind, path, labels)
        except ClusterRefused as refused:
            if refused.code != 410:
                raise
            # The list was too slow for the API server's memory; once more from the start.
            return await self._pages(kind, path, labels)

    async def _pages(
        self, kind: str, path: str, labels: Mapping[str, str] | None
    ) -> Sequence[Object]:
        query = {"limit": str(_PAGE)}
        if labels:
            query["labelSelector"] = ",".join(f"{k}={v}" for k, v in sorted(labels.items()))
        found: list[Object] = []
        for _ in range(_PAGES_MAX):
            page = _of_kind(kind, (await self._ask("GET", path, None, query)).body)
            found.extend(page.get("items") or ())
            following = page.get("metadata", {}).get("continue")
            if not following:
                return found
            query["continue"] = following
        raise ClusterSilent(f"more than {_PAGE * _PAGES_MAX} objects: {path}")

    async def _ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> _Reply:
        with errors.translated():
            # The client's own limits are for each step; an answer that trickles in would pass them.
            async with asyncio.timeout(2 * self._timeout_seconds):
                response = await self._client.request(
                    method,
                    path,
                    params=dict(query or {}),
                    content=None if body is None else json.dumps(body).encode(),
                    headers=None if body is None else {"Content-Type": content_type},
                )
        found = errors.check(response)
        return _Reply(found, errors.audit_id(response), errors.warnings(response))


def _of_kind(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    if body.get("kind") != kind:
        raise ClusterSilent(f"asked for a {kind}, given something else")
    return body


def _answers(change: Change) -> tuple[str, ...]:
    """Returns the kinds a success of this change may be told with."""
    match change.verb:
        case "evict":
            return ("Status", "Eviction")
        case "delete":
            return (_REFERENCES[change.place.kind][1], "Status")
        case "scale":
            return ("Scale",)
        case "patch":
            return (_REFERENCES[change.place.kind][1],)


def _path(place: Place) -> str:
    base, resource = _BASES[place.kind]
    within = "" if place.kind is Kind.NODE else f"/namespaces/{quote(place.namespace, safe='')}"
    return f"{base}{within}/{resource}/{quote(place.name, safe='')}"


def _pins(change: Change) -> list[dict[str, Any]]:
    # A failed `test` is an empty-handed 422; replacing the version with a stale one is a 409.
    return [
        {"op": "replace", "path": "/metadata/uid", "value": change.place.uid},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": change.resource_version},
    ]


def _pinned_merge(change: Change) -> dict[str, Any]:
    pins = {"uid": change.place.uid, "resourceVersion": change.resource_version}
    return {**change.body, "metadata": {**change.body.get("metadata", {}), **pins}}


def _deletion(change: Change, *, dry: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"preconditions": {"uid": change.place.uid}}
    if change.verb == "delete":
        # It goes past budgets because it was not ready: a pod that is by now must stay.
        options["preconditions"]["resourceVersion"] = change.resource_version
    if change.body is not None:
        options["gracePeriodSeconds"] = change.body
    if dry:
        options["dryRun"] = ["All"]
    return {"kind": "DeleteOptions", "apiVersion": "v1", **options}


def _eviction(change: Change, *, dry: bool) -> dict[str, Any]:
    return {
        "kind": "Eviction",
        "apiVersion": "policy/v1",
        "metadata": {"name": change.place.name, "namespace": change.place.namespace},
        "deleteOptions": _deletion(change, dry=dry),
    }


def _event(place: Place, uid: str, reason: str, message: str, action_id: str) -> dict[str, Any]:
    name = hashlib.sha256(f"{action_id} {reason}".encode()).hexdigest()[:20]
    version, kind = _REFERENCES[place.kind]
    regarding = {"apiVersion": version, "kind": kind, "name": place.name, "uid": uid}
    if place.namespace:
        regarding["namespace"] = place.namespace
    return {
        "kind": "Event",
        "apiVersion": "events.k8s.io/v1",
        "metadata": {
            "name": f"aegis-{name}",
            "namespace": place.namespace or NODE_EVENT_NAMESPACE,
            "annotations": {ACTION_ID: action_id},
        },
        "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": "Normal",
        "reason": reason,
        "action": reason,
        "note": message[:_NOTE_CHARACTERS_MAX],
        "regarding": regarding,
        "reportingController": "aegis.dev/executor",
        "reportingInstance": FIELD_MANAGER,
    }
