"""Stopping execution, and letting it go on.

A pause holds here from its commit on, for every server that asks the same database, and at the
executor from the moment it was laid upon it: at once, or by `run` when the executor was away. While
it does not have one, it is sent nothing in that scope. A resume goes the other way round: the
executor first, then here, so that in between it is paused and not let go.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from datetime import timedelta

from aegis.errors import (
    AegisError,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from aegis.serving.database import Connection
from aegis_server.execution import records
from aegis_server.execution import store as actions
from aegis_server.execution.dispatch import Dispatch
from aegis_server.execution.ledger import Ledger
from aegis_server.execution.pauses import store
from aegis_server.execution.pauses.store import StoredPause

log = logging.getLogger(__name__)

_EVERY_SECONDS = 1.0
_AT_ONCE = 20
# What failed longer ago than this did not trip what a pause is for.
_TRIPPED = timedelta(hours=24)


class Pauses:
    """Knows what is stopped. Run `run()` as a task to tell an executor that was away."""

    def __init__(self, ledger: Ledger, dispatch: Dispatch) -> None:
        self._ledger = ledger
        self._dispatch = dispatch

    async def pause(
        self, *, namespace: str, verb: str, who: str, reason: str, life: timedelta | None
    ) -> StoredPause:
        """Stops a scope; raises `InvalidArgument` (FIELD_INVALID) for an action nobody knows."""
        if verb and verb not in records.VERBS:
            expected = f"expected one of {', '.join(sorted(records.VERBS))}"
            raise InvalidArgument(
                "FIELD_INVALID", expected, violations=[FieldViolation("scope.action", expected)]
            )
        now = self._ledger.clock()
        pause = StoredPause(
            pause_id=f"pause-{uuid.uuid4().hex[:16]}",
            namespace=namespace,
            action=verb,
            who=who,
            reason=reason,
            created_at=now,
            expires_at=now + life if life is not None else None,
        )
        async with self._ledger.transaction() as connection:
            await store.insert(connection, pause)
            await self._note(connection, pause, "pause", "paused", who, reason)
        try:
            await self.lay()
        except AegisError as error:
            log.warning("the executor does not have %s yet: %s", pause.pause_id, error.message)
        async with self._ledger.database.transaction() as connection:
            return await store.find(connection, pause.pause_id) or pause

    async def resume(self, pause_id: str, *, who: str, reason: str) -> StoredPause:
        """Ends a pause; one that was ended stays as it is.

        Raises `NotFound` (RESOURCE_NOT_FOUND), `PermissionDenied` (APPROVAL_OWN) for who asked for
        the last action in its scope that was of no use before it, or for one that was since,
        `Unavailable` (EXECUTOR_UNAVAILABLE).
        """
        async with self._ledger.transaction() as connection:
            pause = await store.find(connection, pause_id, lock=True)
            if pause is None:
                raise NotFound(
                    "RESOURCE_NOT_FOUND", f"there is no pause {pause_id}", resource=pause_id
                )
            if pause.resumed_at is not None:
                return pause
            tripped_by = await actions.not_healed_around(
                connection,
                namespace=pause.namespace,
                verb=pause.action,
                since=pause.created_at - _TRIPPED,
                until=pause.created_at,
            )
            if who in tripped_by:
                raise PermissionDenied(
                    "APPROVAL_OWN",
                    f"an action that was of no use there is {who}'s: somebody else lets it go on",
                )
            await self._dispatch.resume(pause_id, who=who, reason=reason)
            now = self._ledger.clock()
            await store.resume(connection, pause_id, who=who, reason=reason, at=now)
            await self._note(connection, pause, "resume", "resumed", who, reason)
            return await store.find(connection, pause_id) or pause

    async def standing(self) -> list[StoredPause]:
        """Returns what is paused now."""
        async with self._ledger.database.transaction() as connection:
            return await store.standing(connection, self._ledger.clock())

    async def holding(
        self, connection: Connection, namespace: str, verb: str
    ) -> StoredPause | None:
        """Returns a pause that holds for an action, if there is one."""
        for pause in await store.standing(connection, self._ledger.clock()):
            if pause.holds_for(namespace, verb):
                return pause
        return None

    async def lay(self) -> int:
        """Tells the executor of every pause it does not have; returns how many.

        Raises `Unavailable` (EXECUTOR_UNAVAILABLE).
        """
        # The rows stay locked meanwhile, so that no resume can overtake what is being told.
        async with self._ledger.database.transaction() as connection:
            now = self._ledger.clock()
            waiting = await store.untold(connection, now, _AT_ONCE)
            for pause in waiting:
                await self._dispatch.pause(pause)
                await store.told(connection, pause.pause_id, self._ledger.clock())
        return len(waiting)

    async def run(self) -> None:
        """Tells the executor of what it missed, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                await self.lay()
            except AegisError as error:
                log.warning("the executor may lack a pause: %s", error.message)

    async def _note(
        self,
        connection: Connection,
        pause: StoredPause,
        deed: str,
        outcome: str,
        who: str,
        reason: str,
    ) -> None:
        entry = records.of_pause(
            deed,
            outcome,
            actor=who,
            pause_id=pause.pause_id,
            scope=(pause.namespace, pause.action),
            reason=reason,
        )
        await self._ledger.record(connection, entry)


def paused(pause: StoredPause) -> FailedPrecondition:
    """Returns the error that says where and by whom execution was stopped."""
    return FailedPrecondition(
        "EXECUTION_PAUSED",
        f"{pause.who} stopped {pause.scope}: {pause.reason}",
        scope=pause.scope,
        by=pause.who,
        pause_id=pause.pause_id,
    )
