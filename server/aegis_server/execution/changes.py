"""Wakes those who watch an action."""

from __future__ import annotations

import asyncio
from contextlib import suppress

_POLL_SECONDS = 1.0


class Changes:
    """Tells of changes in this process at once; what other servers change is polled for."""

    def __init__(self, poll_seconds: float = _POLL_SECONDS) -> None:
        self._poll_seconds = poll_seconds
        self._next = asyncio.Event()

    def tell(self) -> None:
        """Says that some action changed."""
        changed, self._next = self._next, asyncio.Event()
        changed.set()

    def expect(self) -> asyncio.Event:
        """Returns what the next change sets; ask before looking, so that none is missed."""
        return self._next

    async def wait(self, change: asyncio.Event) -> None:
        """Returns once it happened, or when it is time to look for changes elsewhere."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll_seconds):
                await change.wait()
