"""The life of a serving program: start, say so, run, and end when asked or when a part fails."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

log = logging.getLogger(__name__)


class OneLine(logging.Formatter):
    """One line an event, times in UTC; only the traceback below it has lines of its own.

    Names in a message come from callers: one with a line break must not look like another event.
    """

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Returns the line, with every control character written out."""
        line = super().formatMessage(record)
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def configure_logging() -> None:
    """Writes one line an event to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


async def run_until_stopped(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs `parts` until SIGTERM or SIGINT, then ends them, the last first, each before the next.

    So a part can count on those before it until its own end. A part that fails stops all others
    at once and is raised: a program with a dead part must not look alive.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in parts]
        await stopped.wait()
        log.info("stopping")
        for task in reversed(tasks):
            task.cancel()
            await asyncio.wait([task])


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a program's main coroutine on uvloop, which serves about a quarter more calls.

    Processes are started with `aegis.serving.child`, never through this loop.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def announce(ready_file: Path | None, *addresses: str) -> None:
    """Writes the bound addresses where whoever started us looks for them, whole or not at all."""
    if ready_file is None:
        return
    scratch = ready_file.with_name(f".{ready_file.name}.new")
    scratch.write_text("\n".join(addresses))
    scratch.replace(ready_file)
