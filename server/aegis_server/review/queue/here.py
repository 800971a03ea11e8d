"""The queue of this process alone: whoever asks has the round examined at a desk of its own.

A round whose server ended before its verdicts waits in the database. Its coordinator asks again, or
ended as well, and the next one begins another try: so every server looks for what waits.
"""

from __future__ import annotations

import asyncio
import logging

from aegis.errors import Unavailable
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis_server.review.judging import Judging
from aegis_server.review.queue import store
from aegis_server.review.store import RoundKey

log = logging.getLogger(__name__)

_LOOK_SECONDS = 60.0


class Here:
    """Judges rounds in this process; a round goes on when who asked for it has gone."""

    def __init__(self, judging: Judging, deeds: Deeds, database: Database, *, desks: int) -> None:
        self._judging = judging
        self._database = database
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

    async def run(self) -> None:
        """Takes up what waits, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self.sweep()
            except Unavailable as error:
                log.warning("the queue cannot be looked through: %s", error)

    async def sweep(self) -> None:
        """Begins with every round that waits, unless it has been begun with."""
        async with self._database.transaction() as connection:
            rows = await store.rounds(connection)
        for row in rows:
            if row.state == "waiting":
                self._begun(RoundKey(row.run_id, row.round, row.attempt))

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
