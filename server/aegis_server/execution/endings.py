"""Actions that end before they are sent: cancelled, or nobody spoke in time."""

from __future__ import annotations

import asyncio
import logging

from aegis.errors import AegisError, PermissionDenied
from aegis.spiffe import Caller
from aegis_server.access import DOMAIN, Needs, denied, in_scope
from aegis_server.execution import records, store
from aegis_server.execution.ledger import Ledger, conflict
from aegis_server.execution.states import WAITING, S
from aegis_server.execution.store import StoredAction
from aegis_server.policy.decisions import Decisions, Question

log = logging.getLogger(__name__)

_EVERY_SECONDS = 1.0
_AT_ONCE = 100
_CANCEL = Needs(records.ACTIONS, "cancel")


class Endings:
    """Ends what waits. Run `run()` as a task to end what has waited too long."""

    def __init__(self, ledger: Ledger, decisions: Decisions) -> None:
        self._ledger = ledger
        self._decisions = decisions

    async def cancel(self, action_id: str, caller: Caller, reason: str) -> StoredAction:
        """Ends an action that was not sent.

        Raises `NotFound`, `PermissionDenied` (POLICY_DENIED, SCOPE_INSUFFICIENT) for who did not
        ask for it and may not, `FailedPrecondition` (STATE_CONFLICT).
        """
        async with self._ledger.database.transaction() as connection:
            action = await self._ledger.require(connection, action_id)
        await self._permit(caller, action)
        async with self._ledger.transaction() as connection:
            action = await self._ledger.require(connection, action_id, lock=True)
            if action.state not in WAITING:
                raise conflict(action)
            return await self._ledger.move(
                connection,
                action,
                S.STATE_CANCELLED,
                actor=caller.subject,
                said=reason,
                message=f"cancelled by {caller.subject}{f': {reason}' if reason else ''}",
            )

    async def _permit(self, caller: Caller, action: StoredAction) -> None:
        if caller.scopes is not None and not in_scope(caller.scopes, _CANCEL):
            raise PermissionDenied(
                "SCOPE_INSUFFICIENT",
                f"no scope of this API key covers {_CANCEL.action}:{_CANCEL.resource}",
                resource=_CANCEL.resource,
                action=_CANCEL.action,
            )
        if caller.subject == action.issuer:
            return
        question = Question(caller.subject, DOMAIN, _CANCEL.resource, _CANCEL.action)
        decision = await self._decisions.decide(question, current=True)
        if not decision.allowed:
            raise denied(caller.subject, _CANCEL.resource, _CANCEL.action, decision.rule_id)

    async def expire(self) -> int:
        """Ends what nobody approved, or signed for again, in time; returns how many."""
        now = self._ledger.clock()
        async with self._ledger.transaction() as connection:
            late = await store.overdue(connection, now=now, limit=_AT_ONCE)
            for action in late:
                pending = action.state == S.STATE_PENDING_APPROVAL
                await self._ledger.move(
                    connection,
                    action,
                    S.STATE_EXPIRED,
                    actor=self._ledger.server,
                    message="not approved in time"
                    if pending
                    else "approved, and not signed for again in time",
                )
        return len(late)

    async def run(self) -> None:
        """Ends what is overdue, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                await self.expire()
            except AegisError as error:
                log.warning("actions that wait do not expire: %s", error.message)
