"""How many bytes of unfinished answers this process holds."""

from __future__ import annotations

import asyncio


class Memory:
    """A bound on bytes; who wants more than is left waits, or is told so."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._taken = 0
        self._changed = asyncio.Condition()

    @property
    def taken(self) -> int:
        """Bytes that are in use."""
        return self._taken

    async def take(self, size: int, *, wait: bool) -> bool:
        """Takes bytes; False when there is no room now and `wait` is off.

        What is larger than the bound takes all of it.
        """
        size = min(size, self.bytes_max)
        async with self._changed:
            if not wait and self._taken + size > self.bytes_max:
                return False
            await self._changed.wait_for(lambda: self._taken + size <= self.bytes_max)
            self._taken += size
        return True

    async def give_back(self, size: int) -> None:
        """Gives bytes back that were taken."""
        async with self._changed:
            self._taken -= min(size, self.bytes_max)
            self._changed.notify_all()
