"""Work of minutes, in a process of its own that is killed when nobody waits for it any more.

Not in the pool the rest of the server uses: rounds would wait for it, and so would the end of the
server.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from aegis_server.workers import end_with_parent

Result = TypeVar("Result")
Task = TypeVar("Task")

_NICE = 10
_JOIN_SECONDS = 5.0


class Failed(Exception):
    """The work raised; the text says what."""


class Died(Exception):
    """The process ended by itself: it was killed, or there was no memory left."""


async def aside(work: Callable[[Task], Result], task: Task) -> Result:
    """Returns `work(task)`, done with less priority than everything else on the machine.

    Both cross the border pickled. Raises `Failed` or `Died`.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, work, task), daemon=True)
    # In a thread, because a task is written to a pipe that nobody reads before Python is up.
    started = asyncio.create_task(asyncio.to_thread(process.start))
    try:
        await asyncio.shield(started)
        # Only the process has its end now: when it dies, ours says so.
        theirs.close()
        await _readable(ours)
        done, told = ours.recv()
    except (EOFError, ConnectionResetError) as error:
        raise Died(f"{work.__name__} ended its process") from error
    finally:
        await asyncio.wait([started])
        if process.pid is not None:
            process.kill()
            process.join(_JOIN_SECONDS)
        ours.close()
    if not done:
        raise Failed(told)
    result: Result = told
    return result


async def _readable(pipe: Connection) -> None:
    """Waits until something can be read, or the other end is gone."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(pipe.fileno())


def _work(pipe: Connection, work: Callable[[Any], Any], task: Any) -> None:
    end_with_parent()
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    try:
        told: tuple[bool, Any] = (True, work(task))
    except Exception as error:
        told = (False, f"{type(error).__name__}: {error}"[:500])
    pipe.send(told)
