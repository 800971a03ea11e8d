"""The gate before the cluster: what is not on the list never reaches the wire."""

from __future__ import annotations

import httpx2
import pytest

from aegis_executor.kubernetes import ClusterSilent, ForbiddenRequest, Gate


class Wire(httpx2.AsyncBaseTransport):
    """Answers everything and remembers it."""

    def __init__(self, answer: httpx2.Response | None = None) -> None:
        self.seen: list[httpx2.Request] = []
        self._answer = answer

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(request)
        return self._answer or httpx2.Response(200, headers={"Audit-Id": "a"}, json={})


async def send(method: str, path: str) -> Wire:
    wire = Wire()
    gate = Gate(wire, frozenset({"demo"}))
    try:
        await gate.handle_async_request(httpx2.Request(method, f"https://cluster{path}"))
    except ForbiddenRequest:
        assert wire.seen == []
        raise
    return wire


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/namespaces/shop/pods/web"),
        ("GET", "/api/v1/namespaces/demo/secrets/token"),
        ("GET", "/api/v1/namespaces/demo/pods"),
        ("DELETE", "/api/v1/namespaces/demo/pods/web"),
        ("POST", "/api/v1/namespaces/demo/pods"),
        ("PUT", "/apis/apps/v1/namespaces/demo/deployments/web"),
        ("PATCH", "/apis/apps/v1/namespaces/demo/deployments"),
        ("PATCH", "/apis/apps/v1/namespaces/demo/deployments/web/status"),
        ("GET", "/apis/apps/v1/deployments/web"),
        ("GET", "/api/v1/namespaces/demo/pods/..%2F..%2F..%2Fsecrets"),
        ("GET", "/api/v1/namespaces/demo/pods/web/log"),
    ],
)
async def test_request_outside_the_list_is_never_sent(method: str, path: str):
    """Another namespace, resource, verb or trick with the path stays inside."""
    with pytest.raises(ForbiddenRequest):
        await send(method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/apis/apps/v1/namespaces/demo/deployments/web"),
        ("PATCH", "/apis/apps/v1/namespaces/demo/deployments/web/scale?dryRun=All"),
        ("POST", "/api/v1/namespaces/demo/pods/web-1/eviction"),
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


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(503),
        httpx2.Response(502, json={"error": "upstream"}),
        httpx2.Response(404, text="no such page"),
        httpx2.Response(200, html="<p>Please log in</p>"),
    ],
    ids=["nothing", "a proxy's JSON", "a proxy's 404", "a portal"],
)
async def test_answer_that_is_not_the_clusters_own_says_nothing(answer: httpx2.Response):
    """Neither "refused" nor "gone" nor "done" may be read out of what a proxy says."""
    gate = Gate(Wire(answer), frozenset({"demo"}))
    path = "/apis/apps/v1/namespaces/demo/deployments/web"
    with pytest.raises(ClusterSilent):
        await gate.handle_async_request(httpx2.Request("PATCH", f"https://cluster{path}"))
    assert answer.is_closed
