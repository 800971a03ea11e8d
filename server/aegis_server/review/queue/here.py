"""The queue of this process alone: whoever asks has the round examined at a desk of its own."""

from __future__ import annotations

import asyncio
import logging

from aegis.serving.deeds import Deeds
from aegis_server.review.judging import Judging
from aegis_server.review.store import RoundKey

log = logging.getLogger(__name__)


class Here:
    """Judges rounds in this process; a round goes on when who asked for it has gone."""

    def __init__(self, judging: Judging, deeds: Deeds, *, desks: int) -> None:
        self._judging = judging
        self._deeds = deeds
        self._desks = desks
        self._going: dict[RoundKey, asyncio.Task[None]] = {}

    async def examiners(self) -> int:
        """Returns how many rounds this process examines at the same time."""
        return self._desks

    async def put(self, key: RoundKey) -> None:
        """See `rounds.Queue`."""
        self._begun(key)

    async def judged(self, key: RoundKey) -> None:
        """See `rounds.Queue`."""
        await asyncio.shield(self._begun(key))

    def _begun(self, key: RoundKey) -> asyncio.Task[None]:
        task = self._going.get(key)
        if task is None:
            deed = self._deeds.finish(self._judging.judge(key))
            task = self._going[key] = asyncio.create_task(deed)
            task.add_done_callback(lambda _: self._going.pop(key, None))
            task.add_done_callback(_tell)
        return task


def _tell(task: asyncio.Task[None]) -> None:
    # Whoever waits is told, too; but perhaps nobody does any more.
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("a round could not be judged: %s", error)
