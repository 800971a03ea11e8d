"""What happens to an action whose answer was lost: the executor is asked until it knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from aegis.envelope import MAX_SKEW
from aegis.errors import AegisError, NotFound, Unavailable
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.v1 import envelope_pb2, execution_pb2
from aegis_server.execution import records, store
from aegis_server.execution.dispatch import Dispatch, Outcome
from aegis_server.execution.store import StoredAction

log = logging.getLogger(__name__)

# Longer than the executor takes for an ordinary action, so that nobody asks about one on its way.
_ASK_AFTER = timedelta(seconds=3)
_PAUSE_SECONDS = 1.0
_AT_ONCE = 50

_NEVER_BEGUN = Outcome(
    execution_pb2.Action.STATE_FAILED,
    "EXECUTOR_UNAVAILABLE",
    "the executor was not reached before the decision expired; nothing was begun",
    {},
)


class Settlement:
    """Writes how actions ended. Run `run()` as a task to settle those whose answer was lost."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        dispatch: Dispatch,
        server: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._dispatch = dispatch
        self._server = server
        self._clock = clock

    async def settle(self, action: StoredAction, outcome: Outcome) -> StoredAction:
        """Stores an outcome with its audit record, once; returns the action as it is now."""
        async with self._database.transaction() as connection:
            mine = await store.settle(
                connection,
                action.action_id,
                state=outcome.state,
                reason=outcome.reason,
                message=outcome.message,
                observations=outcome.observations,
                now=self._clock(),
            )
            settled = await store.find(connection, action_id=action.action_id)
            if mine:
                await self._audit.record_in(
                    connection, records.ended(action, outcome, self._server)
                )
        return settled or action

    async def run(self) -> None:
        """Asks about every action whose answer was lost, until cancelled."""
        while True:
            try:
                await self.reconcile()
            except AegisError as error:
                log.warning("actions are not being reconciled: %s", error.message)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def reconcile(self) -> int:
        """One round of asking; returns how many actions were settled."""
        now = self._clock()
        async with self._database.transaction() as connection:
            waiting = await store.waiting_since(
                connection, before=now - _ASK_AFTER, now=now, limit=_AT_ONCE
            )
        settled = 0
        for action in waiting:
            outcome = await self._outcome_of(action)
            if outcome is not None:
                await self.settle(action, outcome)
                settled += 1
        return settled

    async def _outcome_of(self, action: StoredAction) -> Outcome | None:
        try:
            return await self._dispatch.outcome_of(str(action.request_id), action.action_digest)
        except Unavailable:
            return None
        except NotFound:
            pass
        # The executor never took it. Sending it again is safe: it takes a request once.
        if self._clock() <= action.execute_not_after:
            return await self._dispatch.execute(
                envelope_pb2.SignedEnvelope.FromString(action.request_envelope),
                envelope_pb2.SignedEnvelope.FromString(action.decision_envelope or b""),
            )
        # A request may still be on its way until no clock within the skew would accept it.
        return _NEVER_BEGUN if self._clock() > action.execute_not_after + 2 * MAX_SKEW else None
