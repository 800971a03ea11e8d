"""Deeds outlive the call that began them.

gRPC cancels a handler when its client goes away or its deadline passes. A mutation must not stop
half way because of that, so it runs as a task of its own; the handler only waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Deeds:
    """Runs mutations to their end and knows which are still going on."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def begin(self, deed: Coroutine[Any, Any, None]) -> None:
        """Runs `deed` without anybody waiting for it but `drain`; its error is told to the log."""
        task = asyncio.get_running_loop().create_task(deed)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(_log_failure)

    async def finish(self, deed: Coroutine[Any, Any, Result]) -> Result:
        """Runs `deed` to its end even when the caller is cancelled; ends as it does.

        The error of a deed whose caller has gone is told to the log.
        """
        task = asyncio.get_running_loop().create_task(deed)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    async def drain(self) -> None:
        """Waits for every deed still going on."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)


def _log_failure(deed: asyncio.Task[Any]) -> None:
    if not deed.cancelled() and (error := deed.exception()) is not None:
        log.error("a deed failed that nobody waits for", exc_info=error)
