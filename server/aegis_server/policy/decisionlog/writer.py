"""Writes lines to Postgres, a batch after the other, each exactly once.

A batch that could not be written is tried again. When the answer to a commit was lost, only
Postgres knows whether the batch is there: it is asked before the next try.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from datetime import date, datetime

from prometheus_client import CollectorRegistry, Gauge

from aegis.errors import Unavailable
from aegis.serving.database import Connection, Database
from aegis_server.policy.decisionlog import store
from aegis_server.policy.decisionlog.batches import BATCH_MAX, Batch, Gap, Place, seal
from aegis_server.policy.decisionlog.buffer import Buffer
from aegis_server.policy.decisionlog.lines import GENESIS, Line

log = logging.getLogger(__name__)

_WRITE_SECONDS = 5.0
_RETRY_SECONDS = 0.5


class Writer:
    """The only one who writes this log; `tell` hears of every batch that is stored."""

    def __init__(
        self,
        database: Database,
        buffer: Buffer,
        *,
        log_id: uuid.UUID,
        replica: str,
        clock: Callable[[], datetime],
        registry: CollectorRegistry,
        tell: Callable[[Batch], None],
    ) -> None:
        self._database = database
        self._buffer = buffer
        self._clock = clock
        self._tell = tell
        self._place = Place(log_id, 1, replica, GENESIS)
        self._lines: deque[Line] = deque()
        self._taken: list[Line] = []
        self._gap: Gap | None = None
        self._doubtful = False
        self._days: set[date] = set()
        self._ready = asyncio.Event()
        self._behind = False
        self._told = Gauge(
            "aegis_policy_decision_log_behind",
            "1 while the decision log cannot be written.",
            registry=registry,
            multiprocess_mode="livemax",
        )

    def put(self, lines: Sequence[Line]) -> None:
        """Takes lines that are to be written: when they fill a batch, or when `wake` says so."""
        self._lines.extend(lines)
        if len(self._lines) >= BATCH_MAX:
            self._ready.set()

    def wake(self) -> None:
        """Has written what there is."""
        self._ready.set()

    async def run(self) -> None:
        """Writes until cancelled, and tries again when it cannot."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            try:
                await self.write_all()
            except Unavailable as error:
                if not self._behind:
                    log.warning("the decision log is not written: %s", error.message)
                self._behind = True
                self._told.set(1)
                await asyncio.sleep(_RETRY_SECONDS)
                self._ready.set()

    async def write_all(self) -> None:
        """Writes everything; raises `Unavailable` with the rest kept for another try."""
        while self._taken or self._lines:
            if not self._taken:
                count = min(BATCH_MAX, len(self._lines))
                self._taken = [self._lines.popleft() for _ in range(count)]
                self._gap = self._buffer.take_gap()
            if self._buffer.trying_since is None:
                self._buffer.trying_since = time.monotonic()
            try:
                async with asyncio.timeout(_WRITE_SECONDS):
                    batch = await self._write()
            except TimeoutError as error:
                raise Unavailable("DATABASE_UNAVAILABLE", "Postgres does not answer") from error
            self._is_stored(batch)

    def _is_stored(self, batch: Batch) -> None:
        if self._behind:
            log.info("the decision log is written again")
        self._behind = self._doubtful = False
        self._told.set(0)
        self._buffer.trying_since = None
        self._place = Place(batch.log, batch.number + 1, batch.replica, batch.chain)
        self._buffer.tell_stored(len(self._taken))
        self._taken, self._gap = [], None
        self._tell(batch)

    async def _write(self) -> Batch:
        lines: Sequence[Line] = self._taken
        async with store.writing(self._database) as connection:
            if self._doubtful:
                known = await store.batch_at(connection, self._place.log, self._place.number)
                if known is not None:
                    return known
            self._doubtful = True
            now = self._clock()
            days = await self._make_days(connection, {line.at.date() for line in lines}, now)
            if reported := {line.reported: line.at for line in lines if line.reported}:
                lines = _once(lines, await store.claim(connection, list(reported.items())))
            batch = seal(lines, self._place, self._gap, now)
            await store.append(connection, batch, lines)
        self._days |= days
        return batch

    async def _make_days(self, connection: Connection, days: set[date], now: datetime) -> set[date]:
        missing = (days | {now.date()}) - self._days
        for day in sorted(missing):
            await store.make_partitions(connection, day, day)
        return missing


def _once(lines: Sequence[Line], fresh: set[str]) -> list[Line]:
    """Returns the lines without those that were reported before."""
    kept = []
    for line in lines:
        if line.reported and line.reported not in fresh:
            continue
        fresh.discard(line.reported)
        kept.append(line)
    return kept
