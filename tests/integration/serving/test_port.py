"""Whatever is registered on a port stands behind its doors, or is not served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from aegis.errors import Unauthenticated
from aegis.local import pki
from aegis.serving.doors import Context, Doors, Grant, Peer
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.tls import TlsFiles
from aegis.spiffe import Caller

SERVICE = "tests.Echo"


async def _nobody(method: str, peer: Peer) -> Caller:
    raise Unauthenticated("PEER_UNIDENTIFIED", "nobody is known here")


async def _admit(method: str, caller: Caller) -> Grant:
    return Grant()


async def _echo(request: bytes, context: Context) -> bytes:
    return request


async def _echo_stream(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


HANDLERS = {
    "Once": grpc.unary_unary_rpc_method_handler(_echo),
    "Often": grpc.stream_stream_rpc_method_handler(_echo_stream),
}


@pytest.fixture
async def port(tmp_path: Path) -> Port:
    pki.ensure(tmp_path)
    files = TlsFiles(tmp_path / "server.crt", tmp_path / "server.key", tmp_path / "ca.crt")
    doors = Doors(authenticate=_nobody, admit=_admit, metrics=CallMetrics(CollectorRegistry()))
    return Port(doors=doors, tls=files, services=[SERVICE])


@asynccontextmanager
async def serving(port: Port, roots: Path) -> AsyncIterator[grpc.aio.Channel]:
    await port.open("127.0.0.1:0", "127.0.0.1:0")
    credentials = grpc.ssl_channel_credentials(roots.read_bytes())
    async with grpc.aio.secure_channel(port.token_address, credentials) as channel:
        yield channel
    await port.close(0)


async def _code(call: object) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value.code()


async def _last(answers: AsyncIterator[bytes]) -> None:
    async for _ in answers:
        pass


async def test_what_is_registered_by_name_is_behind_the_doors(port: Port, tmp_path: Path) -> None:
    """Of every kind; probes of health need no identity."""
    port.server.add_registered_method_handlers(SERVICE, HANDLERS)
    async with serving(port, tmp_path / "ca.crt") as channel:
        once = channel.unary_unary(f"/{SERVICE}/Once")(b"", timeout=10)
        often = channel.stream_stream(f"/{SERVICE}/Often")(iter([b""]), timeout=10)
        assert await _code(once) is grpc.StatusCode.UNAUTHENTICATED
        assert await _code(_last(often)) is grpc.StatusCode.UNAUTHENTICATED
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_what_is_registered_in_another_way_is_not_served(port: Port, tmp_path: Path) -> None:
    """A handler that nobody put behind the doors answers nobody."""
    generic = grpc.method_handlers_generic_handler(SERVICE, HANDLERS)
    port.server.add_generic_rpc_handlers((generic,))
    async with serving(port, tmp_path / "ca.crt") as channel:
        once = channel.unary_unary(f"/{SERVICE}/Once")(b"", timeout=10)
        assert await _code(once) is grpc.StatusCode.UNIMPLEMENTED


async def test_nobody_is_served_without_tls(port: Port) -> None:
    """There is no way to ask for it."""
    with pytest.raises(RuntimeError, match="without TLS"):
        port.server.add_insecure_port("127.0.0.1:0")
    await port.close(0)
