"""What people order: stop here, go on, this is what became of it. Each with its record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from aegis.errors import FailedPrecondition, NotFound
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis_executor import records
from aegis_executor.guards import store
from aegis_executor.guards.pauses import Pause
from aegis_executor.verification.store import Judged, insert_verdict


class Orders:
    """Every method is one transaction; all raise `Unavailable` (DATABASE_UNAVAILABLE)."""

    def __init__(
        self, database: Database, audit: AuditLog, *, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock

    async def pause(self, pause: Pause) -> None:
        """Lays a pause; the same one again does nothing."""
        async with self._database.transaction() as connection:
            if await store.insert_pause(connection, pause):
                await self._audit.record_in(connection, records.paused(pause))

    async def resume(self, *, pause_id: str, who: str, reason: str) -> None:
        """Ends a pause, also one that is still on its way; again does nothing."""
        async with self._database.transaction() as connection:
            at = self._clock()
            if await store.insert_resume(
                connection, pause_id=pause_id, who=who, reason=reason, at=at
            ):
                entry = records.resumed(pause_id=pause_id, who=who, reason=reason)
                await self._audit.record_in(connection, entry)

    async def resolve(self, *, request_id: str, who: str, found: str, reason: str) -> None:
        """Stores what somebody found out about an UNKNOWN execution: APPLIED or NOT_APPLIED.

        One that was applied is INCONCLUSIVE with that, as it is at the server.

        Raises `NotFound` (RESOURCE_NOT_FOUND) and `FailedPrecondition` (STATE_CONFLICT) for one
        that is not UNKNOWN, or about which somebody found otherwise.
        """
        async with self._database.transaction() as connection:
            # Two at once: the second has to see the first's word.
            await store.take_turn(connection)
            stands = await store.resolution(connection, request_id)
            if stands is None:
                raise NotFound(
                    "RESOURCE_NOT_FOUND", "no such execution", resource=f"executions/{request_id}"
                )
            if stands.found == found:
                return
            if stands.found is not None or stands.state != "UNKNOWN":
                state = f"resolved as {stands.found}" if stands.found else stands.state
                raise FailedPrecondition(
                    "STATE_CONFLICT",
                    f"the execution is {state}",
                    resource=f"executions/{request_id}",
                    state=state,
                )
            at = self._clock()
            await store.insert_resolution(
                connection, request_id=request_id, found=found, who=who, reason=reason, at=at
            )
            if found == "APPLIED":
                # Nobody watched, and the object has moved on: no look now could be about it.
                await insert_verdict(connection, _unwatched(request_id, who, at))
            entry = records.resolved(
                stands, who=who, found=found, request_id=request_id, reason=reason
            )
            await self._audit.record_in(connection, entry)


def _unwatched(request_id: str, who: str, at: datetime) -> Judged:
    message = f"{who} found that it was applied; whether it helped nobody watched"
    return Judged(request_id, "INCONCLUSIVE", "", message, {}, at)
