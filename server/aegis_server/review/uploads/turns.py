"""Turns: how many uploads a participant may have under way, and send of late.

Only what it sends by itself counts, so that a participant that floods the server neither slows
others down nor keeps the coordinator from bringing its update.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

from aegis.errors import ResourceExhausted, Unavailable

# Takes one token of somebody's bucket: zero, or the seconds until there is one.
Rate: TypeAlias = Callable[[str], Awaitable[float]]

_AT_ONCE = 2


class Turns:
    """Counts the uploads of this process; `rate` may count those of all servers."""

    def __init__(self, rate: Rate, *, at_once: int = _AT_ONCE) -> None:
        self._rate = rate
        self._at_once = at_once
        self._open: Counter[str] = Counter()

    @asynccontextmanager
    async def one(self, participant: str) -> AsyncIterator[None]:
        """Lets one upload happen inside; raises `ResourceExhausted` (UPLOADS_TOO_MANY).

        While nobody can count, the number at once still holds.
        """
        if self._open[participant] >= self._at_once:
            raise _too_many(participant, f"{self._at_once} uploads are under way", 1)
        self._open[participant] += 1
        try:
            try:
                wait = await self._rate(participant)
            except Unavailable:
                wait = 0.0
            if wait > 0:
                raise _too_many(participant, "too many updates came of late", wait)
            yield
        finally:
            self._open[participant] -= 1
            if not self._open[participant]:
                del self._open[participant]


def _too_many(participant: str, why: str, seconds: float) -> ResourceExhausted:
    return ResourceExhausted(
        "UPLOADS_TOO_MANY",
        f"{participant} has to wait: {why}",
        participant=participant,
        retry_seconds=max(1, round(seconds)),
    )
