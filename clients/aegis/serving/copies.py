"""Copies of what is stored, read again when it changed, and never trusted for long without a look.

A server answers from memory who is who and who takes part. The copy is looked at again every second
and on news; when nobody could look for half a minute, it vouches for nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from aegis.errors import Unavailable

Value = TypeVar("Value")

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
_READ_SECONDS = 5.0
_STALE_SECONDS = 30.0


class Copy(Generic[Value]):
    """A copy that `read` makes: given the one in use, it returns the next, or None for no change.

    `use` is called behind each change with the copy before and the new one; `what` says in errors
    what this is a copy of, "who takes part". Call `refresh` first, and run `run`.
    """

    def __init__(
        self,
        what: str,
        read: Callable[[Value | None], Awaitable[Value | None]],
        *,
        use: Callable[[Value | None, Value], None],
        monotonic: Callable[[], float] = time.monotonic,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._what = what
        self._read = read
        self._use = use
        self._monotonic = monotonic
        self._poll_seconds = poll_seconds
        self._value: Value | None = None
        self._fresh_at = -math.inf
        self._refreshing = asyncio.Lock()

    @property
    def value(self) -> Value:
        """The newest this server knows.

        Raises `Unavailable` (DATABASE_UNAVAILABLE) when it may long be outdated.
        """
        if self._value is None or self.problem:
            raise self._unavailable()
        return self._value

    @property
    def problem(self) -> str:
        """Why the copy vouches for nothing; empty when all is well."""
        stale = self._monotonic() - self._fresh_at > _STALE_SECONDS
        return f"{self._what} cannot be read" if stale else ""

    async def run(self) -> None:
        """Looks again and again until cancelled."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.refresh()
            except Unavailable as error:
                log.debug("%s stays as it was: %s", self._what, error)

    async def refresh(self) -> None:
        """Makes sure that what is committed now is known; raises `Unavailable` when it is not."""
        asked = self._monotonic()
        try:
            async with self._refreshing, asyncio.timeout(_READ_SECONDS):
                # Whoever waited for a look that began behind the question has its answer.
                if self._fresh_at > asked:
                    return
                began = self._monotonic()
                fresh = await self._read(self._value)
                self._fresh_at = began
                if fresh is not None:
                    before, self._value = self._value, fresh
                    self._use(before, fresh)
        except TimeoutError as error:
            raise self._unavailable() from error

    def _unavailable(self) -> Unavailable:
        return Unavailable("DATABASE_UNAVAILABLE", f"{self._what} cannot be read")
