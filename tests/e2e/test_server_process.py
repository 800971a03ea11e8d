"""The server as a process of its own: how it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc

from aegis.channel import Identity, connect
from aegis.local import pki
from aegis.local.programs import server_environment
from aegis.serving.database import migrate
from aegis.v1 import policy_pb2, policy_pb2_grpc
from tests.processes import Process


async def started(home: Path, owner_url: str, url: str) -> Process:
    await migrate(owner_url, "aegis_server", "aegis")
    pki.ensure(home / "pki")
    (home / "blobs").mkdir()
    environment = server_environment(
        home, database_url=url, redis_url=None, executor_address="127.0.0.1:1"
    )
    ours = {name: value for name, value in environment.items() if name.startswith("AEGIS_")}
    return await asyncio.to_thread(
        Process, home, "aegis_server", **ours, AEGIS_LISTEN="127.0.0.1:0"
    )


async def test_sigterm_lets_calls_come_to_their_ends(
    tmp_path: Path, database_url: str, server_database_url: str
):
    """Calls in flight are answered and recorded; only new ones are turned away."""
    server = await started(tmp_path, database_url, server_database_url)
    answered, refusals = 0, []

    async def ask(stub: policy_pb2_grpc.PolicyServiceStub) -> None:
        nonlocal answered
        while True:
            request = policy_pb2.EvaluateRequest(subject="user:a", resource="/x", action="read")
            try:
                await stub.Evaluate(request, timeout=20)
            except grpc.aio.AioRpcError as error:
                refusals.append(error.details())
                return
            answered += 1

    identity = Identity.of("admin", tmp_path)
    try:
        async with connect(server.address, identity, retries=False) as channel:
            asking = asyncio.gather(
                *(ask(policy_pb2_grpc.PolicyServiceStub(channel)) for _ in range(16))
            )
            async with asyncio.timeout(20):
                while answered < 100:
                    await asyncio.sleep(0.02)
            status = await asyncio.to_thread(server.stop)
            await asking
    finally:
        server.kill()
    assert status == 0
    assert [text for text in refusals if "audit" in text] == []
    assert "AUDIT_UNAVAILABLE" not in server.log.read_text()
