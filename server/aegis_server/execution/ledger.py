"""How an action gets from one state to another: never without its audit record.

Everything that happens to an action goes through here, so that no change can be forgotten in the
log, the metrics or with those who watch.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from aegis.errors import AegisError, FailedPrecondition, NotFound, Unavailable
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis_server.execution import records, store
from aegis_server.execution.changes import Changes
from aegis_server.execution.metrics import ActionMetrics
from aegis_server.execution.states import ENDED, FOLLOWS, State, name_of
from aegis_server.execution.store import StoredAction

log = logging.getLogger(__name__)

# Recorded with the action it left behind.
_TOLD = frozenset({"POLICY_DENIED"})


class Ledger:
    """Moves actions, records refusals, tells who watches."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        *,
        metrics: ActionMetrics,
        clock: Callable[[], datetime],
        server: str,
    ) -> None:
        self.database = database
        self.clock = clock
        self.changes = Changes()
        self.metrics = metrics
        # What does something by itself.
        self.server = server
        self._audit = audit

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lends a transaction in which actions move; who watches is told once it is committed."""
        async with self.database.transaction() as connection:
            yield connection
        self.changes.tell()

    async def record(self, connection: Connection, entry: Entry) -> None:
        """Writes down what is no change of state, in a transaction."""
        await self._audit.record_in(connection, entry)

    async def note(self, entry: Entry) -> None:
        """Writes down what changes nothing here; raises `Unavailable` (AUDIT_UNAVAILABLE)."""
        await self._audit.record(entry)

    async def require(
        self, connection: Connection, action_id: str, *, lock: bool = False
    ) -> StoredAction:
        """Returns an action; raises `NotFound` (RESOURCE_NOT_FOUND)."""
        action = await store.find(connection, action_id=action_id, lock=lock)
        if action is None:
            raise NotFound(
                "RESOURCE_NOT_FOUND", f"there is no action {action_id}", resource=action_id
            )
        return action

    async def open(self, connection: Connection, action: StoredAction) -> bool:
        """Stores a new action with its record; False when its request is already there."""
        if not await store.insert(connection, action):
            return False
        await self._note(connection, action, actor=action.issuer, details={}, said="")
        return True

    async def move(
        self,
        connection: Connection,
        action: StoredAction,
        state: State,
        *,
        actor: str,
        details: Mapping[str, str] | None = None,
        said: str = "",
        **changes: Any,
    ) -> StoredAction:
        """Moves a locked action; returns it as it is now. `said` is what a person wrote.

        `changes` are columns. Raises RuntimeError for a step that `states` does not know.
        """
        if state not in FOLLOWS[action.state]:
            raise RuntimeError(
                f"{action.action_id} cannot become {name_of(state)}: it is {name_of(action.state)}"
            )
        now = self.clock()
        fields = {"state": state, "updated_at": now, "reason": "", "message": "", **changes}
        if state in ENDED:
            fields["ended_at"] = action.ended_at or now
        after = replace(action, **fields)
        if not await store.write(connection, after, was=action.state):
            raise RuntimeError(f"{action.action_id} was moved by somebody else")
        await self._note(connection, after, actor=actor, details=details or {}, said=said)
        return after

    async def _note(
        self,
        connection: Connection,
        action: StoredAction,
        *,
        actor: str,
        details: Mapping[str, str],
        said: str,
    ) -> None:
        await self._audit.record_in(connection, records.moved(action, actor, details, said))
        self.metrics.moved.labels(action.verb, name_of(action.state)).inc()

    async def refuse(
        self,
        actor: str,
        deed: str,
        refusal: AegisError,
        *,
        resource: str = records.ACTIONS,
        about: str = "",
    ) -> None:
        """Records and counts a refusal. What we could not do for want of something is none.

        `about` is what the call named: an action, or a pause.
        """
        if isinstance(refusal, Unavailable):
            return
        self.metrics.refused.labels(refusal.reason).inc()
        if refusal.reason in _TOLD and "action_id" in refusal.metadata:
            return
        # What does not exist is only a text that somebody wrote.
        about = "" if isinstance(refusal, NotFound) else about
        entry = records.refused(actor, deed, refusal, resource=resource, about=about)
        await self._audit.record(entry)
        async with self.database.transaction() as connection:
            await store.count_refusal(connection, reason=refusal.reason, at=self.clock())


def conflict(action: StoredAction) -> FailedPrecondition:
    """Returns the error that says an action is not in a state for this."""
    state = name_of(action.state).upper()
    return FailedPrecondition(
        "STATE_CONFLICT",
        f"{action.action_id} is {state}",
        resource=action.action_id,
        state=state,
    )
