"""What is the sandbox's own: its limits, its control paths, and that it says what it is."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from aegis_sandbox.sandbox import Sandbox, sandbox

WEB = "/apis/apps/v1/namespaces/demo/deployments/web"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with sandbox(tmp_path) as started:
        yield started


def client(home: Path, kubeconfig: str) -> httpx2.AsyncClient:
    told = yaml.safe_load((home / kubeconfig).read_text())
    return httpx2.AsyncClient(
        base_url=told["clusters"][0]["cluster"]["server"],
        headers={"Authorization": f"Bearer {told['users'][0]['user']['token']}"},
        verify=ssl.create_default_context(cafile=home / "ca.crt"),
        trust_env=False,
    )


@pytest.mark.parametrize("path", ["ledger", "break", "grant", "fault", "faults"])
async def test_control_paths_are_the_administrators(running: Sandbox, tmp_path: Path, path: str):
    """The executor's token breaks nothing."""
    async with client(tmp_path, "kubeconfig") as executor:
        assert (await executor.get(f"/sandbox/{path}")).status_code == 403


async def test_it_says_sandbox(running: Sandbox, tmp_path: Path):
    """In the version, in every header, in the kubeconfig's context."""
    async with client(tmp_path, "kubeconfig") as executor:
        response = await executor.get("/version")
    assert "sandbox" in response.json()["gitVersion"]
    assert response.headers["Server"] == "aegis-sandbox"
    assert "aegis-sandbox" in (tmp_path / "kubeconfig").read_text()


async def test_what_is_not_modelled_is_refused(running: Sandbox, tmp_path: Path):
    """501, never a guess."""
    strategic = {"Content-Type": "application/strategic-merge-patch+json"}
    ports = {"spec": {"template": {"spec": {"hostAliases": [{"ip": "1.2.3.4"}]}}}}
    async with client(tmp_path, "admin.kubeconfig") as admin:
        answers = [
            await admin.put(WEB, json={}),
            await admin.get("/apis/apps/v1/namespaces/demo/statefulsets"),
            await admin.get("/api/v1/namespaces/demo/events"),
            await admin.delete("/api/v1/namespaces/demo"),
            await admin.get("/api/v1/namespaces/demo/pods?fieldSelector=spec.nodeName%3Da"),
            await admin.patch(WEB, content=json.dumps(ports), headers=strategic),
            await admin.patch(WEB, content='{"$patch":"replace"}', headers=strategic),
        ]
    assert [answer.status_code for answer in answers] == [501] * 7
    assert "sandbox does not model" in answers[0].json()["message"]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"a" * 2_000_000,
            b"413",
        ),
    ],
    ids=["nonsense", "target", "head", "body"],
)
async def test_bad_http_is_answered_and_survived(
    running: Sandbox, tmp_path: Path, sent: bytes, code: bytes
):
    """A status, a closed connection, and the next one is served."""
    context = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    port = int(running.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(sent)
    async with asyncio.timeout(5):
        assert code in await reader.readline()
    writer.close()
    async with client(tmp_path, "kubeconfig") as executor:
        assert (await executor.get(WEB)).status_code == 200


@pytest.mark.parametrize(
    "body", ["[]", "{", '{"spec":null}', '{"metadata":[]}', '{"spec":{"template":1}}']
)
async def test_bad_patch_is_the_clients_fault(running: Sandbox, tmp_path: Path, body: Any):
    """A 4xx Status, and the deployment stays as it was."""
    headers = {"Content-Type": "application/merge-patch+json"}
    async with client(tmp_path, "kubeconfig") as executor:
        before = (await executor.get(WEB)).json()
        response = await executor.patch(WEB, content=body, headers=headers)
        assert response.status_code in (400, 422)
        assert response.json()["kind"] == "Status"
        assert (await executor.get(WEB)).json() == before


async def test_private_files_are_private(running: Sandbox, tmp_path: Path):
    """Tokens and keys are nobody else's to read."""
    for name in ("kubeconfig", "admin.kubeconfig", "control.json", "server.key"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0


async def test_faults_are_taken_one_by_one_by_whom_they_fit(running: Sandbox, tmp_path: Path):
    """In the order of the script, each once; the administrator is never disturbed."""
    script = [
        {"where": "instead", "code": 500, "verb": "get", "resource": "deployments"},
        {"where": "instead", "code": 429, "retry_after_seconds": 2, "verb": "get"},
    ]
    async with client(tmp_path, "admin.kubeconfig") as admin:
        assert (await admin.post("/sandbox/faults", json={"faults": script})).status_code == 200
        assert (await admin.get(WEB)).status_code == 200
    async with client(tmp_path, "kubeconfig") as executor:
        listed = await executor.get(WEB.rpartition("/")[0])
        answers = [await executor.get(WEB) for _ in range(3)]
    assert listed.status_code == 200
    assert [answer.status_code for answer in answers] == [500, 429, 200]
    assert answers[1].headers["Retry-After"] == "2"


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"where": "nowhere"},
        {"where": "instead", "code": 418},
        {"where": "before", "seconds": -1},
        {"where": "before", "minutes": 1},
        ["before"],
    ],
)
async def test_fault_that_is_not_known_is_refused(running: Sandbox, tmp_path: Path, told: Any):
    """A test with a typo must not pass for want of its fault."""
    async with client(tmp_path, "admin.kubeconfig") as admin:
        assert (await admin.post("/sandbox/fault", json=told)).status_code == 400


@pytest.mark.parametrize(("where", "changed"), [("reset", 0), ("lost", 1), ("cut", 1)])
async def test_broken_connection_is_in_the_ledger(
    running: Sandbox, tmp_path: Path, where: str, changed: int
):
    """Whatever the client saw, the oracle knows whether it took effect."""
    headers = {"Content-Type": "application/merge-patch+json"}
    async with (
        client(tmp_path, "admin.kubeconfig") as admin,
        client(tmp_path, "kubeconfig") as executor,
    ):
        await admin.post("/sandbox/fault", json={"where": where})
        with pytest.raises(httpx2.TransportError):
            await executor.patch(f"{WEB}/scale", content='{"spec":{"replicas":4}}', headers=headers)
        writes = (await admin.get("/sandbox/ledger")).json()["writes"]
    assert [write["changed"] for write in writes] == [bool(changed)]


async def test_page_of_a_forgotten_list_is_gone(running: Sandbox, tmp_path: Path):
    """410: a client has to begin again."""
    async with client(tmp_path, "kubeconfig") as executor:
        path = "/api/v1/namespaces/demo/pods?limit=1&continue=long-ago"
        assert (await executor.get(path)).status_code == 410


async def test_pod_waits_while_every_node_is_cordoned(running: Sandbox, tmp_path: Path):
    """Pending and unschedulable, until a node is free again."""
    headers = {"Content-Type": "application/merge-patch+json"}
    async with client(tmp_path, "admin.kubeconfig") as admin:

        async def cordon(value: bool) -> None:
            for name in ("node-a", "node-b", "node-c"):
                body = json.dumps({"spec": {"unschedulable": value}})
                path = f"/api/v1/nodes/{name}"
                answer = await admin.patch(path, content=body, headers=headers)
                assert answer.status_code == 200

        async def waiting() -> list[Any]:
            running.controllers.settle()
            pods = (await admin.get("/api/v1/namespaces/demo/pods")).json()["items"]
            return [pod["status"]["conditions"] for pod in pods if "nodeName" not in pod["spec"]]

        await cordon(True)
        await admin.patch(f"{WEB}/scale", content='{"spec":{"replicas":4}}', headers=headers)
        ((condition,),) = await waiting()
        assert condition["reason"] == "Unschedulable"
        node = (await admin.get("/api/v1/nodes/node-a")).json()
        assert node["spec"]["taints"][0]["key"] == "node.kubernetes.io/unschedulable"
        await cordon(False)
        assert await waiting() == []


def test_it_listens_on_loopback_only(tmp_path: Path):
    """A pretended cluster has no business on a network."""
    command = [sys.executable, "-m", "aegis_sandbox", "--home", str(tmp_path)]
    ended = subprocess.run(
        [*command, "--listen", "0.0.0.0:0"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "loopback only" in ended.stderr
