"""Hears what changes about tasks, at whichever server it did.

Postgres tells every server over a connection that does nothing else. It is a hint and no more:
whoever waits looks for himself every so often, and misses nothing while this connection is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from aegis.errors import Unavailable
from aegis.serving.database import listen
from aegis_server.training.tasks.store import CHANNEL

log = logging.getLogger(__name__)

_APPLICATION = "aegis-server-tasks"
_PAUSE_SECONDS_MIN = 0.1
_PAUSE_SECONDS_MAX = 5.0


class Subscription:
    """Waits for one topic."""

    def __init__(self, news: News) -> None:
        self._news = news
        self.heard = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Returns once something was heard since the last wait, or after so long.

        Raises `Unavailable` (SERVER_DRAINING) once this server is about to stop.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.heard.wait()
        self.heard.clear()
        self._news.require_open()


class News:
    """What is told about runs and participants, for those in this process who wait for it."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._closed = False

    @contextlib.contextmanager
    def about(self, topic: str) -> Iterator[Subscription]:
        """Subscribes to "run:ID" or "participant:NAME"; subscribe before you look."""
        subscription = Subscription(self)
        group = self._subscriptions.setdefault(topic, set())
        group.add(subscription)
        try:
            yield subscription
        finally:
            group.discard(subscription)
            if not group and self._subscriptions.get(topic) is group:
                del self._subscriptions[topic]

    def require_open(self) -> None:
        """Raises `Unavailable` (SERVER_DRAINING) once this server is about to stop."""
        if self._closed:
            raise Unavailable(
                "SERVER_DRAINING", "this server is about to stop: come again", retry_seconds=1
            )

    def close(self) -> None:
        """Ends every waiting: streams would otherwise hold up the end of the server."""
        self._closed = True
        self._tell_all()

    async def run(self) -> None:
        """Listens until cancelled."""
        pause = _PAUSE_SECONDS_MIN
        while True:
            try:
                messages = listen(self._database_url, CHANNEL, application=_APPLICATION)
                async with contextlib.aclosing(messages):
                    async for topic in messages:
                        pause = _PAUSE_SECONDS_MIN
                        self._tell(topic)
            except Unavailable as error:
                log.debug("not listening for tasks, polling remains: %s", error.__cause__)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    def _tell(self, topic: str) -> None:
        if not topic:
            # We listen anew: what was told before went past us.
            self._tell_all()
        for subscription in self._subscriptions.get(topic, ()):
            subscription.heard.set()

    def _tell_all(self) -> None:
        for group in self._subscriptions.values():
            for subscription in group:
                subscription.heard.set()
