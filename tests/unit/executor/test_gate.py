"""The gate before the cluster: what is not on the list never reaches the wire."""

from __future__ import annotations

import httpx2
import pytest

from aegis_executor.kubernetes import ForbiddenRequest, Gate


class Wire(httpx2.AsyncBaseTransport):
    """Answers everything and remembers it."""

    def __init__(self) -> None:
        self.seen: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(request)
        return httpx2.Response(200, headers={"Audit-Id": "a"}, json={})


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
