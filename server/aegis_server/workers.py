"""Worker processes for work that would hold up the event loop.

Spawned, never forked: a forked child would inherit gRPC's threads' locks and none of its threads.
They end with the process that started them, also when that is killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

import threadpoolctl

Result = TypeVar("Result")
Task = TypeVar("Task")

log = logging.getLogger(__name__)


class Workers:
    """Runs plain functions on plain values in at most `processes` processes."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool = self._started()

    async def run(self, work: Callable[[Task], Result], task: Task) -> Result:
        """Returns `work(task)`, or raises what it raises; both cross the border pickled.

        A worker that dies, for want of memory say, takes its whole pool with it. The work is then
        tried once more on a new one; raises BrokenProcessPool when that dies as well.
        """
        pool = self._pool
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(pool, work, task)
        except BrokenProcessPool:
            log.warning("a worker process died; starting new ones")
            self._replace(pool)
        pool = self._pool
        try:
            return await loop.run_in_executor(pool, work, task)
        except BrokenProcessPool:
            self._replace(pool)
            raise

    def close(self) -> None:
        """Waits for the work in hand and ends the processes."""
        self._pool.shutdown(cancel_futures=True)

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        # Everyone who used the broken pool comes by here; the first replaces it.
        if self._pool is broken:
            broken.shutdown(wait=False)
            self._pool = self._started()

    def _started(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._processes, mp_context=get_context("spawn"), initializer=end_with_parent
        )


def end_with_parent() -> None:
    """Ends this process with the one that started it."""
    # They wait at a pipe whose other end they hold as well: left alone they would wait for ever.
    threading.Thread(target=_wait_for_the_end, name="parent", daemon=True).start()


def _wait_for_the_end() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def one_thread() -> None:
    """Has the linear algebra of this process compute in one thread.

    There are as many processes as should work at once. Threads of each beside the others wait for
    one another, several times as long as they work; and sums are rounded by how they are divided,
    so that one case would not be judged alike on machines of more cores.
    """
    threadpoolctl.threadpool_limits(1, user_api="blas")
