"""Hears of new revisions, and of other news, the moment they are committed.

Postgres tells every server over a connection that does nothing else. It is a hint and no more: what
is heard is looked up, and whoever polls as well, as `Decisions` does, misses nothing while this
connection is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from aegis.errors import AegisError, Unavailable
from aegis.serving.database import listen
from aegis_server.policy.store import CHANNEL

log = logging.getLogger(__name__)

_APPLICATION = "aegis-server-following"
_PAUSE_SECONDS_MIN = 0.1
_PAUSE_SECONDS_MAX = 5.0


class Following:
    """Calls `on_news` for what is told on a channel, and whenever it may have missed something."""

    def __init__(
        self,
        database_url: str,
        on_news: Callable[[], Awaitable[object]],
        *,
        channel: str = CHANNEL,
    ) -> None:
        self._database_url = database_url
        self._on_news = on_news
        self._channel = channel
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Listens until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._tell())

    async def _listen(self) -> None:
        pause = _PAUSE_SECONDS_MIN
        while True:
            try:
                messages = listen(self._database_url, self._channel, application=_APPLICATION)
                async with contextlib.aclosing(messages):
                    async for _ in messages:
                        # The first comes with the connection: what was told before it is news.
                        pause = _PAUSE_SECONDS_MIN
                        self._news.set()
            except Unavailable as error:
                log.debug(
                    "not listening on %s, polling remains: %s", self._channel, error.__cause__
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    async def _tell(self) -> None:
        """Calls back, once for all that came meanwhile, and apart from the listening."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._on_news()
            except AegisError as error:
                log.debug("news on %s could not be followed: %s", self._channel, error)
