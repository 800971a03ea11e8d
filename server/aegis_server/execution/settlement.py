"""What becomes of an action that was sent: the executor is asked until it knows whether it helped.

That is also how a lost answer is found, and how a request that never arrived is sent again, for as
long as its decision is good and nobody stopped execution.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from aegis.envelope import MAX_SKEW
from aegis.errors import AegisError, NotFound, Unavailable
from aegis.v1 import envelope_pb2
from aegis_server.execution import states, store
from aegis_server.execution.approvals import store as words
from aegis_server.execution.approvals.deciding import Approvals
from aegis_server.execution.dispatch import Dispatch, Outcome
from aegis_server.execution.ledger import Ledger
from aegis_server.execution.pauses.pausing import Pauses
from aegis_server.execution.states import S
from aegis_server.execution.store import StoredAction

log = logging.getLogger(__name__)

# Longer than the executor takes for an ordinary action, so that nobody asks about one on its way.
_ASK_AFTER = timedelta(seconds=3)
# Longer than any verification may take; whoever has no verdict by then gets none.
_WATCHED_FOR = timedelta(days=3)
_PAUSE_SECONDS = 1.0
_AT_ONCE = 50

_NEVER_BEGUN = Outcome(
    S.STATE_FAILED,
    "EXECUTOR_UNAVAILABLE",
    "the executor was not reached before the decision expired; nothing was begun",
    {},
)


class Settlement:
    """Writes how actions went on. Run `run()` as a task to follow those that were sent."""

    def __init__(
        self, ledger: Ledger, dispatch: Dispatch, pauses: Pauses, approvals: Approvals
    ) -> None:
        self._ledger = ledger
        self._dispatch = dispatch
        self._pauses = pauses
        self._approvals = approvals

    async def settle(self, action: StoredAction, outcome: Outcome) -> StoredAction:
        """Stores an outcome with its audit records, once; returns the action as it is now."""
        async with self._ledger.transaction() as connection:
            current = await self._ledger.require(connection, action.action_id, lock=True)
            # The answer is to what was sent; a later one may be about another signing of it.
            for state in states.way(current.state, outcome.state):
                last = state == outcome.state
                current = await self._ledger.move(
                    connection,
                    current,
                    state,
                    actor=self._ledger.server,
                    reason=outcome.reason if last else "",
                    message=outcome.message if last else "",
                    observations=dict(outcome.observations),
                    asked_at=self._ledger.clock(),
                )
        return current

    async def run(self) -> None:
        """Follows every action that was sent, until cancelled."""
        while True:
            try:
                await self.reconcile()
            except AegisError as error:
                log.warning("actions are not being reconciled: %s", error.message)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def reconcile(self) -> int:
        """One round of asking; returns how many actions went on."""
        now = self._ledger.clock()
        async with self._ledger.database.transaction() as connection:
            waiting = await store.waiting_since(
                connection,
                before=now - _ASK_AFTER,
                born_after=now - _WATCHED_FOR,
                now=now,
                limit=_AT_ONCE,
            )
        settled = 0
        for action in waiting:
            outcome = await self._outcome_of(action)
            if outcome is not None and states.way(action.state, outcome.state):
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
        if action.state != S.STATE_DISPATCHED:
            log.error("the executor has lost %s, which it applied", action.action_id)
            return None
        # The executor never took it. Sending it again is safe: it takes a request once.
        if self._ledger.clock() <= action.execute_not_after:
            return await self._send_again(action)
        # A request may still be on its way until no clock within the skew would accept it.
        late = self._ledger.clock() > action.execute_not_after + 2 * MAX_SKEW
        return _NEVER_BEGUN if late else None

    async def _send_again(self, action: StoredAction) -> Outcome | None:
        async with self._ledger.database.transaction() as connection:
            if await self._pauses.holding(connection, action.namespace, action.verb) is not None:
                return None
            said = await words.words_about(connection, [action.action_id])
        # The executor refuses a request that comes with an approval that ended.
        counting = await self._approvals.counting(said[action.action_id], self._ledger.clock())
        return await self._dispatch.execute(
            envelope_pb2.SignedEnvelope.FromString(action.request_envelope),
            envelope_pb2.SignedEnvelope.FromString(action.decision_envelope or b""),
            [envelope_pb2.SignedEnvelope.FromString(each.envelope or b"") for each in counting],
        )
