"""Worker processes, real ones."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from tests.processes import until

from aegis_server.workers import Workers


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    started = Workers(1)
    yield started
    started.close()


def worker_of(work: str) -> str:
    return f"{work} by {os.getpid()}"


def die(code: int) -> None:
    os._exit(code)


def die_once(trace: Path) -> str:
    if not trace.exists():
        trace.touch()
        os._exit(1)
    return "second life"


async def test_work_is_done_in_another_process(workers: Workers):
    """The event loop's own process stays free."""
    assert await workers.run(worker_of, "work") not in ("", f"work by {os.getpid()}")


async def test_what_work_raises_comes_back(workers: Workers):
    """An error in a worker is an error of the call."""
    with pytest.raises(ValueError, match="invalid literal"):
        await workers.run(int, "x")


async def test_work_is_tried_again_when_its_worker_dies(workers: Workers, tmp_path: Path):
    """One death by chance is survived."""
    assert await workers.run(die_once, tmp_path / "trace") == "second life"


async def test_work_that_kills_its_worker_fails_alone(workers: Workers):
    """What kills every worker is given up, and the next work finds a living one."""
    with pytest.raises(BrokenProcessPool):
        await workers.run(die, 1)
    assert await asyncio.gather(*(workers.run(abs, -n) for n in range(4))) == [0, 1, 2, 3]


def test_workers_end_when_their_process_is_killed(tmp_path: Path):
    """Nobody is left to wait at a pipe for ever."""
    told = tmp_path / "pid"
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.pool_owner", str(told)], cwd=Path(__file__).parents[2]
    )
    try:
        pid = int(until(lambda: told.exists() and told.read_text()))
    finally:
        owner.kill()
        owner.wait()
    until(lambda: not Path(f"/proc/{pid}").exists())
