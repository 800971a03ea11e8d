"""The life of a serving program: how its parts end, and how it starts other processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import uvloop

from aegis.serving.child import Child
from aegis.serving.program import OneLine, run, run_until_stopped

ENVIRONMENT: Mapping[str, str] = {}


async def part(name: str, ended: list[str], *, seconds: float = 0) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(seconds)
        ended.append(name)


async def stop_soon() -> None:
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.Event().wait()


def test_parts_end_in_reverse_order_each_before_the_next():
    """What a part needs is still there while it ends, however long that takes."""
    ended: list[str] = []
    parts = (part("log", ended), part("port", ended, seconds=0.1), part("sweep", ended))
    run(run_until_stopped(*parts, stop_soon()))
    assert ended == ["sweep", "port", "log"]


def test_failing_part_stops_the_others_and_is_raised():
    """A program with a dead part does not look alive, and its other parts still end well."""
    ended: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise OSError("the disk is gone")

    with pytest.raises(ExceptionGroup) as caught:
        run(run_until_stopped(part("log", ended), fail(), part("sweep", ended)))
    assert [str(error) for error in caught.value.exceptions] == ["the disk is gone"]
    assert sorted(ended) == ["log", "sweep"]


def test_part_that_fails_while_it_ends_is_raised_and_the_rest_still_ends():
    """A bad end is not taken for a good one."""
    ended: list[str] = []

    async def end_badly() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("not closed")

    with pytest.raises(ExceptionGroup) as caught:
        run(run_until_stopped(part("log", ended), end_badly(), stop_soon()))
    assert [str(error) for error in caught.value.exceptions] == ["not closed"]
    assert ended == ["log"]


def test_child_is_started_without_a_fork(tmp_path: Path):
    """At a fork gRPC's handlers stop its threads in the middle of other people's calls."""
    forks: list[str] = []
    os.register_at_fork(before=lambda: forks.append("fork"))

    async def start() -> int:
        child = Child(
            [sys.executable, "-c", "print('hello')"],
            environment=ENVIRONMENT,
            folder=tmp_path,
            log_file=tmp_path / "log",
        )
        return await child.ended()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(start()) == 0
    assert (tmp_path / "log").read_text() == "hello\n"
    assert forks == []


@pytest.mark.parametrize(("deaf", "status"), [(False, -signal.SIGTERM), (True, -signal.SIGKILL)])
async def test_child_ends_by_force_after_its_grace(tmp_path: Path, deaf: bool, status: int):
    """Asked first; who does not go is made to."""
    setting = "signal.SIG_IGN" if deaf else "signal.SIG_DFL"
    script = f"import signal, time; signal.signal(signal.SIGTERM, {setting}); print(1, flush=True)"
    child = Child(
        [sys.executable, "-c", f"{script}; time.sleep(60)"],
        environment=ENVIRONMENT,
        folder=tmp_path,
        log_file=tmp_path / "log",
    )
    async with asyncio.timeout(10):
        while not (tmp_path / "log").read_text():
            await asyncio.sleep(0.02)
    await child.end(grace_seconds=0.3)
    assert await child.ended() == status


def test_name_with_a_line_break_stays_on_its_line():
    """Whoever chooses a name does not write our log, nor paint our terminal."""
    hostile = "web\n2026-01-01 INFO aegis all is well\x1b[2J\u2028"
    record = logging.LogRecord("aegis", logging.WARNING, "", 1, "no pod %s", (hostile,), None)
    line = OneLine().format(record)
    assert line.splitlines() == [line]
    assert line.endswith(r"no pod web\n2026-01-01 INFO aegis all is well\x1b[2J\u2028")
