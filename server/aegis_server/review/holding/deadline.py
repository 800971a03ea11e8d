"""The deadline of held updates: nobody waits for a person for ever.

Every server looks; the row locks let one of them decide.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from aegis.errors import Unavailable
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Database
from aegis.v1 import audit_pb2
from aegis_server.review import store as updates_store
from aegis_server.review.case import Verdict
from aegis_server.review.cases import Memory
from aegis_server.review.holding import store
from aegis_server.review.updates import RESOURCE, Update, details, update_of

log = logging.getLogger(__name__)

REASON = "nobody decided before the deadline"
_LOOK_SECONDS = 5.0
_AT_ONCE = 100


class Deadline:
    """Decides what nobody else did. `server` is the subject of the audit records."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        clock: Callable[[], datetime],
        server: str = "server:aegis",
        memory: Memory | None = None,
    ) -> None:
        self._memory = memory
        self._database = database
        self._audit = audit
        self._clock = clock
        self._server = server

    async def run(self) -> None:
        """Looks every few seconds until cancelled."""
        while True:
            try:
                while await self.decide() == _AT_ONCE:
                    pass
            except Unavailable as error:
                log.debug("held updates stay held for now: %s", error)
            await asyncio.sleep(_LOOK_SECONDS)

    async def decide(self) -> int:
        """Gives overdue updates their default verdict; returns how many, a hundred at most."""
        async with self._database.transaction() as connection:
            now = self._clock()
            overdue = await store.overdue(connection, now, limit=_AT_ONCE)
            entries, names = [], set()
            for update_id in overdue:
                row = await updates_store.find(connection, update_id)
                assert row is not None and row.hold_default is not None  # noqa: PT018, S101
                verdict = Verdict(row.hold_default)
                await store.withdraw(connection, update_id)
                await store.add(
                    connection,
                    update_id,
                    before=Verdict.HELD.value,
                    after=verdict.value,
                    by="",
                    reason=REASON,
                    effective=True,
                    now=now,
                )
                await store.set_verdict(connection, update_id, verdict.value)
                entries.append(self._entry(update_of(row), verdict))
                names.add(row.participant)
            if entries:
                if self._memory is not None:
                    entries += await self._memory.reckon(connection, names, now=now)
                await self._audit.record_in(connection, *entries)
        return len(overdue)

    def _entry(self, update: Update, verdict: Verdict) -> Entry:
        return Entry(
            kind=audit_pb2.AUDIT_KIND_REVIEW,
            actor=self._server,
            action="override",
            resource=f"{RESOURCE}/{update.update_id}",
            outcome=verdict.value,
            reason=REASON,
            subject_id=update.update_id,
            details={
                **details(update.key, update.participant, update.sha256),
                "from": Verdict.HELD.value,
                "to": verdict.value,
            },
        )
