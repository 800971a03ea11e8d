"""One `aegis up` for all tests that only look, and whatever each test needs to call it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from aegis.channel import Identity, connect
from aegis.local.state import server_address
from tests.commands import aegis

START_SECONDS = 60


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A home in which `aegis up` runs; it must end well and leave no process."""
    with tempfile.TemporaryDirectory(prefix="aegis-e2e-") as folder:
        process = subprocess.Popen(
            aegis("--home", folder, "up", "--listen", "127.0.0.1:0"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            _wait_until_up(process, Path(folder))
            yield Path(folder)
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert left_behind(folder) == []


def _wait_until_up(process: subprocess.Popen[str], home: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while server_address(home) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"aegis up did not come up:\n{process.communicate()[0]}")
        time.sleep(0.1)


def left_behind(home: str) -> list[str]:
    """Command lines of processes that still mention the home."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if home in line:
                found.append(line)
    return found


@pytest.fixture
async def admin(home: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel as user:admin."""
    async with connect(str(server_address(home)), Identity.of("admin", home)) as channel:
        yield channel


@pytest.fixture
async def autopilot(home: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel as automation:autopilot, without retries."""
    identity = Identity.of("autopilot", home)
    async with connect(str(server_address(home)), identity, retries=False) as channel:
        yield channel
