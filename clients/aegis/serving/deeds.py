"""Deeds outlive the call that began them.

gRPC cancels a handler when its client goes away or its deadline passes. A mutation must not stop
half way because of that, so it runs as a task of its own; the handler only waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Deeds:
    """Runs mutations to their end and knows which are still going on."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def finish(self, deed: Coroutine[Any, Any, Result]) -> Result:
        """Runs `deed` to its end even when the caller is cancelled; ends as it does."""
        task = asyncio.get_running_loop().create_task(deed)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Waits for every deed still going on; their errors were told to their callers."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
