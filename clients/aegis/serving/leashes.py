"""Leashes: a stream lasts no longer than what its caller proved itself by.

A call is let in once, but a stream may go on for hours. Its leash ends it when the caller's token
ends, and when somebody revokes the certificate, session, key or account behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from aegis.errors import AegisError, Unauthenticated
from aegis.spiffe import Caller

Item = TypeVar("Item")


class Leash:
    """Ends one stream; `caller` is who it belongs to."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self._ended: AegisError | None = None
        # Two of a stream that goes both ways: one for each direction.
        self._waiting: set[asyncio.Timeout] = set()

    def end(self, error: AegisError) -> None:
        """Makes the stream fail with `error`, now or when it next waits for something."""
        self._ended = error
        for waiting in self._waiting:
            if not waiting.expired():
                waiting.reschedule(asyncio.get_running_loop().time())

    def check(self) -> None:
        """Raises the error that ended the stream, or `Unauthenticated` (TOKEN_EXPIRED)."""
        if self._ended is not None:
            raise self._ended
        if self._seconds_left() == 0:
            raise Unauthenticated("TOKEN_EXPIRED", "the token ended while the stream was open")

    async def each(self, items: AsyncIterator[Item]) -> AsyncIterator[Item]:
        """Yields what `items` yields, for as long as `check` raises nothing."""
        while True:
            self.check()
            try:
                async with asyncio.timeout(self._seconds_left()) as waiting:
                    self._waiting.add(waiting)
                    try:
                        item = await anext(items)
                    finally:
                        self._waiting.discard(waiting)
            except StopAsyncIteration:
                return
            except TimeoutError:
                self.check()
                raise
            yield item

    def _seconds_left(self) -> float | None:
        if self.caller.expires_at is None:
            return None
        return max(0.0, (self.caller.expires_at - datetime.now(UTC)).total_seconds())


class Leashes:
    """Every stream that is open."""

    def __init__(self) -> None:
        self._open: set[Leash] = set()

    @contextmanager
    def hold(self, caller: Caller) -> Iterator[Leash]:
        """Keeps a leash for the duration of a call."""
        leash = Leash(caller)
        self._open.add(leash)
        try:
            yield leash
        finally:
            self._open.discard(leash)

    def expel(self, refusal: Callable[[Caller], AegisError | None]) -> int:
        """Ends every stream whose caller `refusal` has an error for; returns how many."""
        ended = 0
        for leash in tuple(self._open):
            if (error := refusal(leash.caller)) is not None:
                leash.end(error)
                ended += 1
        return ended
