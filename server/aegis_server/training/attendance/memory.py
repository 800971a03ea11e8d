"""How many bytes of unfinished answers this process holds."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress

# Who was sent away for want of room comes back for it.
_WANTED_SECONDS = 60.0


class Memory:
    """A bound on bytes; who wants more than is left waits for a while, or is told so."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._taken = 0
        self._changed = asyncio.Condition()
        self._wanted_at = -math.inf

    @property
    def taken(self) -> int:
        """Bytes that are in use."""
        return self._taken

    @property
    def wanted(self) -> bool:
        """Whether there was no room for somebody, a moment ago."""
        return time.monotonic() - self._wanted_at < _WANTED_SECONDS

    async def take(self, size: int, *, seconds: float) -> bool:
        """Takes bytes; False when there is no room for so long.

        What is larger than the bound takes all of it.
        """
        size = min(size, self.bytes_max)
        async with self._changed:
            if self._taken + size > self.bytes_max:
                self._wanted_at = time.monotonic()
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._changed.wait_for(lambda: self._taken + size <= self.bytes_max)
                if self._taken + size > self.bytes_max:
                    return False
            self._taken += size
        return True

    async def give_back(self, size: int) -> None:
        """Gives bytes back that were taken."""
        async with self._changed:
            self._taken -= min(size, self.bytes_max)
            self._changed.notify_all()
