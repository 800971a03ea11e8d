"""The server as a process of its own: how it ends, and what it shows and follows meanwhile."""

from __future__ import annotations

import asyncio
import socket
import ssl
import urllib.request
from pathlib import Path

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aegis.channel import Identity, connect
from aegis.local import pki
from aegis.local.programs import server_environment
from aegis.v1 import policy_pb2, policy_pb2_grpc
from aegis_server.migrating import migrate
from tests.processes import Process


async def started(home: Path, owner_url: str, url: str, **more: str) -> Process:
    await migrate(owner_url)
    pki.ensure(home / "pki")
    (home / "blobs").mkdir()
    environment = server_environment(
        home,
        database_url=url,
        redis_url=None,
        executor_address="127.0.0.1:1",
        witness_address="127.0.0.1:1",
    )
    ours = {name: value for name, value in environment.items() if name.startswith("AEGIS_")}
    return await asyncio.to_thread(
        Process, home, "aegis_server", **ours, **more, AEGIS_LISTEN="127.0.0.1:0"
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


async def evaluate(channel: grpc.aio.Channel) -> policy_pb2.EvaluateResponse:
    request = policy_pb2.EvaluateRequest(subject="user:a", resource="/x", action="read")
    return await policy_pb2_grpc.PolicyServiceStub(channel).Evaluate(request, timeout=20)


async def test_calls_are_counted_where_prometheus_looks(
    tmp_path: Path, database_url: str, server_database_url: str
):
    """The metrics port shows each call by method and code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    server = await started(tmp_path, database_url, server_database_url, AEGIS_METRICS_LISTEN=listen)
    try:
        async with connect(server.address, Identity.of("admin", tmp_path)) as channel:
            await evaluate(channel)
        with await asyncio.to_thread(urllib.request.urlopen, f"http://{listen}/metrics") as page:
            text = page.read().decode()
    finally:
        await asyncio.to_thread(server.stop)
    counted = [line for line in text.splitlines() if line.startswith("grpc_server_handled_total")]
    assert [line for line in counted if '"Evaluate"' in line and '"OK"' in line]
    assert "aegis_policy_decisions_total" in text


def certificate_at(address: str, home: Path) -> bytes:
    """The certificate a new connection gets to see."""
    identity = Identity.of("admin", home)
    context = ssl.create_default_context(cafile=str(identity.roots))
    context.load_cert_chain(identity.certificate, identity.key)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


async def test_certificate_is_followed_without_a_restart(
    tmp_path: Path, database_url: str, server_database_url: str
):
    """New files serve the next handshake; broken ones leave the last good pair in place."""
    server = await started(tmp_path, database_url, server_database_url)
    try:
        async with connect(server.address, Identity.of("admin", tmp_path)) as old:
            await evaluate(old)
            before = await asyncio.to_thread(certificate_at, server.address, tmp_path)
            for name in ("server.crt", "server.key"):
                (tmp_path / "pki" / name).unlink()
            pki.ensure(tmp_path / "pki")
            after = await asyncio.to_thread(certificate_at, server.address, tmp_path)
            assert after != before
            (tmp_path / "pki" / "server.crt").unlink()
            assert await asyncio.to_thread(certificate_at, server.address, tmp_path) == after
            await evaluate(old)
    finally:
        await asyncio.to_thread(server.stop)


async def health(channel: grpc.aio.Channel) -> int:
    request = health_pb2.HealthCheckRequest()
    return (await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)).status


async def test_without_postgres_health_says_so_and_nothing_changes(
    tmp_path: Path,
    postgres_url: str,
    database_name: str,
    database_url: str,
    server_database_url: str,
):
    """While it is away questions are answered by the last known rules, and changes refused."""
    server = await started(tmp_path, database_url, server_database_url)
    serving = health_pb2.HealthCheckResponse.SERVING
    identity = Identity.of("admin", tmp_path)
    try:
        async with connect(server.address, identity, retries=False) as channel:
            assert await health(channel) == serving
            with psycopg.connect(postgres_url, autocommit=True) as owner:
                owner.execute(f"alter database {database_name} allow_connections false")
                owner.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
                    (database_name,),
                )
                async with asyncio.timeout(30):
                    while await health(channel) == serving:
                        await asyncio.sleep(0.2)
                assert (await evaluate(channel)).effect == policy_pb2.EFFECT_DENY
                stub = policy_pb2_grpc.PolicyServiceStub(channel)
                change = policy_pb2.ImportPolicyRequest(csv="# nothing", reason="a test")
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await stub.ImportPolicy(change, timeout=20)
                assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
                owner.execute(f"alter database {database_name} allow_connections true")
            async with asyncio.timeout(30):
                while await health(channel) != serving:
                    await asyncio.sleep(0.2)
            assert (await evaluate(channel)).effect == policy_pb2.EFFECT_DENY
    finally:
        await asyncio.to_thread(server.stop)
