"""Days of the decision log: made ahead, and dropped when they are old.

A day is dropped as a whole, by a function of the database that keeps yesterday whoever asks: the
server's role can delete no row. That it was dropped is recorded in the same transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import date, datetime, timedelta

from aegis.errors import AegisError
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Database
from aegis.v1 import audit_pb2
from aegis_server.policy.decisionlog import store
from aegis_server.policy.decisionlog.commitment import RESOURCE

log = logging.getLogger(__name__)

_EVERY_SECONDS = 3600.0
_RETRY_SECONDS = 60.0
_AHEAD = timedelta(days=2)


class Retention:
    """Keeps `days` whole days before today. Run `run()` as a task, on one server or on all."""

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditLog,
        clock: Callable[[], datetime],
        days: int,
        actor: str = "server:aegis",
    ) -> None:
        if days < 1:
            raise ValueError("yesterday is kept: at least one day")
        self._database = database
        self._audit = audit
        self._clock = clock
        self._days = days
        self._actor = actor

    async def run(self) -> None:
        """Looks every hour, until cancelled."""
        while True:
            try:
                await self.make_ahead()
                await self.drop_old()
            except AegisError as error:
                log.warning("days of the decision log were not kept in order: %s", error.message)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                await asyncio.sleep(_EVERY_SECONDS)

    async def make_ahead(self) -> None:
        """Makes the partitions of today and the days to come."""
        today = self._clock().date()
        async with store.writing(self._database) as connection:
            await store.make_partitions(connection, today, today + _AHEAD)

    async def drop_old(self) -> list[date]:
        """Drops the days that are over for longer than agreed; returns them."""
        before = self._clock().date() - timedelta(days=self._days)
        async with store.writing(self._database) as connection:
            dropped = await store.drop_partitions(connection, before)
            if dropped:
                await self._audit.record_in(
                    connection, *(self._record(*counted) for counted in dropped)
                )
        for day, _, decisions in dropped:
            log.info("dropped the %d decisions of %s", decisions, day)
        return [day for day, _, _ in dropped]

    def _record(self, day: date, batches: int, decisions: int) -> Entry:
        return Entry(
            kind=audit_pb2.AUDIT_KIND_DECISION,
            actor=self._actor,
            action="drop",
            resource=RESOURCE,
            outcome="dropped",
            details={
                "day": day.isoformat(),
                "batches": str(batches),
                "decisions": str(decisions),
                "retention_days": str(self._days),
            },
        )
