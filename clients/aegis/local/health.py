"""`status()`: asks every part of a home how it is."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aegis.channel import Identity, connect
from aegis.local.sockets import listening
from aegis.local.state import PartState, read
from aegis.local.valkey import ask

_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class PartHealth:
    """One part's answer: whether it works, and in words why not or where it is."""

    name: str
    healthy: bool
    detail: str
    address: str
    pid: int | None


async def status(home: Path) -> list[PartHealth]:
    """Asks each part that state.json names, at the same time; empty when nothing was started."""
    state = read(home)
    if state is None:
        return []
    return list(await asyncio.gather(*(_ask(home, part) for part in state.parts)))


async def _ask(home: Path, part: PartState) -> PartHealth:
    problem: str | None
    if part.pid is not None and not part.runs():
        problem = "its process is gone"
    elif part.name in ("server", "executor", "witness"):
        problem = await serving(part.address, Identity.of("admin", home))
    elif part.pid is not None and not part.address:
        # It serves nobody, so all there is to ask is whether it runs.
        problem = None
    else:
        problem = await asyncio.to_thread(_reach, part)
    return PartHealth(part.name, problem is None, problem or "healthy", part.address, part.pid)


async def serving(address: str, identity: Identity) -> str | None:
    """Asks the standard gRPC health service over mTLS; returns None or what is wrong."""
    try:
        async with connect(address, identity, retries=False) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_SECONDS
            )
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    except OSError as error:
        return str(error)
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _reach(part: PartState) -> str | None:
    path = Path(part.address)
    try:
        if part.name == "valkey" and path.is_absolute():
            answer = ask(path, "PING")
            return None if answer == "+PONG" else f"answers {answer!r}"
        if path.is_absolute():
            return None if listening(path) else "does not accept connections"
        host, _, port = part.address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=_SECONDS).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None
