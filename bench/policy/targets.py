"""A server under load: where it is, what it is asked, how its answers are read.

    from targets import Target, started

`started` runs a server's program until the block ends and returns its process id;
`cpu_seconds` is what the system has charged to a process so far, threads included.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from questions import Request
from replay import Load

# Cerbos compiles 100,000 rules for minutes.
_START_SECONDS = 400.0
_ANSWER_SECONDS = 60.0
_STOP_SECONDS = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Target:
    """A server. `encode` makes a body, `allowed` reads an answer; a bare echo has no opinion."""

    name: str
    load: Load
    pid: int
    encode: Callable[[Request], bytes]
    allowed: Callable[[bytes], bool] | None = None

    async def check(self, asked: Sequence[Request]) -> None:
        """Asks with gRPC's own client; ends the run at a wrong answer."""
        metadata = [("authorization", self.load.authorization)] if self.load.authorization else None
        async with self._channel() as channel:
            call = channel.unary_unary(self.load.path)
            for request in asked:
                body = self.encode(request)
                answer = await call(body, timeout=_ANSWER_SECONDS, metadata=metadata)
                right = answer == body if self.allowed is None else (
                    self.allowed(answer) == request.allowed
                )  # fmt: skip
                if not right:
                    raise SystemExit(f"{self.name} answers {answer!r} to {request}")

    def _channel(self) -> grpc.aio.Channel:
        if self.load.roots is None:
            return grpc.aio.insecure_channel(self.load.address)
        credentials = grpc.ssl_channel_credentials(self.load.roots.read_bytes())
        return grpc.aio.secure_channel(self.load.address, credentials)


def free_address() -> str:
    """Returns an address of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@asynccontextmanager
async def started(command: Sequence[str], address: str, log: Path) -> AsyncIterator[int]:
    """Runs a program that listens on `address`; yields its process id; ends it afterwards."""
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(*command, stdout=file, stderr=file)
    try:
        if not await _listening(process, address):
            raise RuntimeError(f"{log.name} ended, or took too long to start:\n{_end_of(log)}")
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


def _end_of(log: Path) -> str:
    return log.read_text()[-2000:]


async def _listening(process: asyncio.subprocess.Process, address: str) -> bool:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + _START_SECONDS
    while process.returncode is None and time.monotonic() < deadline:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return True
    return False


def cpu_seconds(pid: int) -> float:
    """Returns the processor's time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
