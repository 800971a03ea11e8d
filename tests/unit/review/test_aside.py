"""Work in a process of its own: what comes back, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from aegis_server.review.detectors.aside import Died, Failed, aside


def doubled(number: int) -> int:
    return 2 * number


def refuse(text: str) -> None:
    raise ValueError(text)


def niceness(_: None) -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def die(_: None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(file: str) -> None:
    Path(file).write_text(str(os.getpid()))
    time.sleep(60)


async def test_what_the_work_returns_comes_back():
    """Done with less priority than who asked."""
    assert await aside(doubled, 21) == 42
    assert await aside(niceness, None) == 10


async def test_error_of_the_work_is_told():
    """As a text, because errors of ours do not cross processes."""
    with pytest.raises(Failed, match="ValueError: too few rows"):
        await aside(refuse, "too few rows")


async def test_process_that_dies_is_told_from_work_that_fails():
    """The first may be an accident."""
    with pytest.raises(Died):
        await aside(die, None)


async def test_process_ends_when_nobody_waits_any_more(tmp_path: Path):
    """A server that stops waits for no examination."""
    file = tmp_path / "pid"
    task = asyncio.create_task(aside(sleep, str(file)))
    async with asyncio.timeout(30):
        while not file.exists() or not file.read_text():
            await asyncio.sleep(0.02)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 5
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)
