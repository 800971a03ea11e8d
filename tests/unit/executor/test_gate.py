"""The gate before the cluster: what is not on the list never reaches the wire."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from aegis_executor.catalogue.base import Change, Kind, Place
from aegis_executor.kubernetes import (
    ClusterRefused,
    ClusterSilent,
    ForbiddenRequest,
    Gate,
    Nodes,
    Reach,
    errors,
)
from aegis_executor.kubernetes.client import Kubernetes, _Reply

DEMO = Reach(frozenset({"demo"}))
WITH_NODE = Reach(frozenset({"demo"}), nodes=Nodes(frozenset({"node-a"})))
DEPLOYMENT = "/apis/apps/v1/namespaces/demo/deployments/web"
EVENTS = "/apis/events.k8s.io/v1/namespaces/{}/events"
PINS = [
    {"op": "replace", "path": "/metadata/uid", "value": "u"},
    {"op": "replace", "path": "/metadata/resourceVersion", "value": "1"},
]
CORDON = [
    *PINS,
    {"op": "add", "path": "/metadata/annotations/aegis.dev~1action-id", "value": "a"},
    {"op": "add", "path": "/spec/unschedulable", "value": True},
]


class Wire(httpx2.AsyncBaseTransport):
    """Answers everything and remembers it."""

    def __init__(self) -> None:
        self.seen: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(request)
        return httpx2.Response(200, headers={"Audit-Id": "a"}, json={})


async def send(method: str, path: str, reach: Reach = DEMO, body: Any = None) -> Wire:
    wire = Wire()
    gate = Gate(wire, reach)
    content = None if body is None else json.dumps(body)
    try:
        await gate.handle_async_request(
            httpx2.Request(method, f"https://cluster{path}", content=content)
        )
    except ForbiddenRequest:
        assert wire.seen == []
        raise
    return wire


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/namespaces/shop/pods/web"),
        ("GET", "/api/v1/namespaces/shop/pods"),
        ("GET", "/api/v1/namespaces/demo/secrets/token"),
        ("GET", "/api/v1/namespaces/demo/configmaps"),
        ("GET", "/api/v1/pods"),
        ("DELETE", "/api/v1/namespaces/demo/pods/web"),
        ("DELETE", "/api/v1/namespaces/demo/pods"),
        ("POST", "/api/v1/namespaces/demo/pods"),
        ("POST", "/api/v1/namespaces/demo/pods/web/exec"),
        ("PUT", DEPLOYMENT),
        ("DELETE", DEPLOYMENT),
        ("PATCH", "/apis/apps/v1/namespaces/demo/deployments"),
        ("PATCH", f"{DEPLOYMENT}/status"),
        ("GET", f"{DEPLOYMENT}/scale"),
        ("GET", "/apis/apps/v1/deployments/web"),
        ("GET", "/api/v1/namespaces/demo/pods/..%2F..%2F..%2Fsecrets"),
        ("GET", "/api/v1/namespaces/demo/pods/web/log"),
        ("GET", "/api/v1/namespaces/demo/pods?watch=true"),
        ("GET", "/api/v1/namespaces/demo/pods?fieldSelector=spec.nodeName%3Da"),
        ("GET", "/api/v1/nodes/node-a"),
        ("GET", "/api/v1/nodes"),
        ("PATCH", "/api/v1/nodes/node-a"),
        ("POST", EVENTS.format("default")),
        ("GET", EVENTS.format("demo")),
    ],
)
async def test_request_outside_the_list_is_never_sent(method: str, path: str):
    """Another namespace, resource, verb or trick with the path stays inside."""
    with pytest.raises(ForbiddenRequest):
        await send(method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", DEPLOYMENT),
        ("PATCH", f"{DEPLOYMENT}/scale?dryRun=All"),
        ("POST", "/api/v1/namespaces/demo/pods/web-1/eviction"),
        ("POST", EVENTS.format("demo")),
    ],
)
async def test_write_is_validated_strictly(method: str, path: str):
    """Without this, an unknown field is dropped with a mere warning."""
    wire = await send(method, path)
    assert wire.seen[0].url.params["fieldValidation"] == "Strict"


async def test_read_passes_as_it_is():
    """Reads are on the list, unchanged."""
    wire = await send("GET", "/apis/apps/v1/namespaces/demo/replicasets?labelSelector=app%3Dweb")
    assert wire.seen[0].url.params["labelSelector"] == "app=web"
    assert "fieldValidation" not in wire.seen[0].url.params


async def test_pods_are_deleted_only_where_that_was_allowed():
    """An eviction respects disruption budgets, a deletion does not."""
    reach = Reach(frozenset({"demo"}), delete_pods=True)
    assert (await send("DELETE", "/api/v1/namespaces/demo/pods/web", reach)).seen
    with pytest.raises(ForbiddenRequest):
        await send("DELETE", "/api/v1/namespaces/shop/pods/web", reach)


@pytest.mark.parametrize("reach", [WITH_NODE, Reach(frozenset(), nodes=Nodes(every=True))])
async def test_node_that_was_named_is_cordoned(reach: Reach):
    """By name, or every node; the event about it goes into the namespace default."""
    assert (await send("PATCH", "/api/v1/nodes/node-a", reach, CORDON)).seen
    assert (await send("GET", "/api/v1/nodes/node-a", reach)).seen
    assert (await send("POST", EVENTS.format("default"), reach)).seen


async def test_another_node_is_out_of_reach():
    """Only those that were named."""
    with pytest.raises(ForbiddenRequest):
        await send("PATCH", "/api/v1/nodes/node-b", WITH_NODE, CORDON)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "cordon",
        {"spec": {"unschedulable": True}},
        CORDON[1:],
        [*CORDON, {"op": "add", "path": "/spec/taints", "value": []}],
        [*CORDON, {"op": "remove", "path": "/metadata/annotations/aegis.dev~1action-id"}],
        [*CORDON, {"op": "add", "path": "/metadata/labels/a", "value": "b"}],
        [*CORDON, {"op": "add", "path": "/metadata/annotations", "value": {"other": "a"}}],
        [*CORDON, {"op": "add", "path": "", "value": {}}],
        [*CORDON, "and more"],
    ],
)
async def test_of_a_node_nothing_but_schedulability_is_patched(body: Any):
    """Labels and taints move other people's pods; a patch without its pins moves another node."""
    with pytest.raises(ForbiddenRequest):
        await send("PATCH", "/api/v1/nodes/node-a", WITH_NODE, body)


STATUS = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(503),
        httpx2.Response(502, json={"error": "upstream"}),
        httpx2.Response(500, json={**STATUS, "reason": "InternalError", "code": 500}),
        httpx2.Response(504, json={**STATUS, "reason": "Timeout", "code": 504}),
        httpx2.Response(404, text="no such page"),
        httpx2.Response(404, json={"detail": "Not Found"}),
        httpx2.Response(302, headers={"Location": "/login"}, json={}),
        httpx2.Response(200, html="<p>Please log in</p>"),
        httpx2.Response(200, headers={"Content-Type": "application/json"}, text='{"kind":'),
        httpx2.Response(200, json=["Pod"]),
    ],
    ids=lambda answer: f"{answer.status_code}-{len(answer.content)}",
)
def test_answer_that_is_not_the_clusters_own_says_nothing(answer: httpx2.Response):
    """Neither "refused" nor "gone" nor "done" may be read out of what a proxy says."""
    with pytest.raises(ClusterSilent):
        errors.check(answer)


@pytest.mark.parametrize("code", [401, 403, 404, 409, 410, 415, 422, 429])
def test_no_in_the_api_servers_own_words_is_a_refusal(code: int):
    """The reason and the causes' fields are kept, the message is not."""
    causes = [{"reason": "DisruptionBudget", "message": "secret"}, {"field": "spec.replicas"}]
    body = {**STATUS, "code": code, "message": "secret", "details": {"causes": causes}}
    headers = {"Audit-Id": "a-1", "Retry-After": "7"}
    with pytest.raises(ClusterRefused) as caught:
        errors.check(httpx2.Response(code, headers=headers, json=body))
    assert vars(caught.value) == {
        "code": code,
        "reason": "NotFound",
        "fields": ("DisruptionBudget", "spec.replicas"),
        "audit_id": "a-1",
        "retry_after_seconds": 7,
    }
    assert "secret" not in f"{caught.value} {caught.value!r}"


def test_overlapping_budgets_are_a_refusal_although_500():
    """The API server's way to say no to such an eviction; it has no reason, as errors have."""
    message = (
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does"
        " not support."
    )
    body = {"kind": "Status", "status": "Failure", "message": message, "code": 500}
    with pytest.raises(ClusterRefused) as caught:
        errors.check(httpx2.Response(500, json=body))
    assert caught.value.code == 500


def test_warnings_are_read_from_every_header_and_cut():
    """Commas and quotes inside a text are part of it."""
    headers = [
        ("Warning", '299 - "unknown field \\"spec.x\\"", 299 - "a, b"'),
        ("Warning", f'299 kube "{"long" * 200}"'),
    ]
    told = errors.warnings(httpx2.Response(200, headers=headers))
    assert told[:2] == ['unknown field "spec.x"', "a, b"]
    assert len(told[2]) == 300


async def test_success_of_somebody_else_is_no_success(monkeypatch: pytest.MonkeyPatch):
    """A proxy's 200 to a write says nothing of what became of it: that has to be looked into."""
    port = Kubernetes.__new__(Kubernetes)

    async def answered(*_: object) -> _Reply:
        return _Reply({"ok": True}, "", [])

    monkeypatch.setattr(port, "_ask", answered)
    place = Place(Kind.DEPLOYMENT, "demo", "web", "u-1")
    for change in (
        Change("scale", place, "1", 1, {"spec": {"replicas": 2}}),
        Change("patch", place, "1", 1, []),
        Change("evict", Place(Kind.POD, "demo", "web-1", "u-2"), "1", 0, None),
        Change("delete", Place(Kind.POD, "demo", "web-1", "u-2"), "1", 0, None),
    ):
        for deed in (port.apply(change), port.dry_run(change)):
            with pytest.raises(ClusterSilent):
                await deed
