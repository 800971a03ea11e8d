"""What verification writes down; every method is one transaction.

All raise `Unavailable` (DATABASE_UNAVAILABLE), and what `fence` raises when another executor has
taken over: then nothing is written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis_executor import records
from aegis_executor.catalogue.base import Change
from aegis_executor.verification import store
from aegis_executor.verification.baseline import Baseline
from aegis_executor.verification.judgement import Verdict
from aegis_executor.verification.store import Applied

Fence: TypeAlias = Callable[[Connection], Awaitable[None]]


class Ledger:
    """Baselines, attempts to take back, verdicts."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        *,
        name: str,
        fence: Fence,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._name = name
        self._fence = fence
        self._clock = clock

    async def keep(self, request_id: str, baseline: Baseline) -> None:
        """Writes how it was."""
        async with self._database.transaction() as connection:
            await self._fence(connection)
            await store.insert_baseline(connection, request_id, baseline.to_json(), self._clock())

    async def unjudged(self, since: datetime | None, watched: Sequence[str]) -> list[Applied]:
        """Returns what was applied and not judged, that ended since or is watched."""
        async with self._database.transaction() as connection:
            return await store.unjudged(connection, since, watched)

    async def sending(self, applied: Applied, number: int, change: Change) -> None:
        """Writes down what is about to be sent to take it back."""
        attempt = store.UndoAttempt(
            request_id=applied.request_id,
            number=number,
            uid=change.place.uid,
            resource_version=change.resource_version,
            generation=change.generation,
            sent_at=self._clock(),
        )
        async with self._database.transaction() as connection:
            await self._fence(connection)
            await store.insert_undo_attempt(connection, attempt)

    async def judge(
        self, applied: Applied, verdict: Verdict, observations: Mapping[str, str]
    ) -> datetime | None:
        """Writes a verdict with its audit record; None when there was one already."""
        judged = store.Judged(
            request_id=applied.request_id,
            state=verdict.state,
            reason=verdict.reason,
            message=verdict.message,
            observations=observations,
            at=self._clock(),
        )
        async with self._database.transaction() as connection:
            await self._fence(connection)
            if not await store.insert_verdict(connection, judged):
                return None
            await self._audit.record_in(connection, records.judged(applied, judged, self._name))
            return judged.at
