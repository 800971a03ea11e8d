"""What people say when it is done: what they found out, and that they answer for a broken glass."""

from __future__ import annotations

from typing import Any

from aegis.errors import AlreadyExists, FailedPrecondition, PermissionDenied
from aegis.serving.database import Connection
from aegis.v1 import execution_pb2
from aegis_server.execution import records
from aegis_server.execution.approvals import store
from aegis_server.execution.approvals.store import Word
from aegis_server.execution.dispatch import Dispatch
from aegis_server.execution.intake import REVIEWS_NEEDED
from aegis_server.execution.ledger import Ledger, conflict
from aegis_server.execution.states import S, State
from aegis_server.execution.store import StoredAction

Found = execution_pb2.ResolveActionRequest

_RESOLVED: dict[int, tuple[State, str]] = {
    # Whether it helped nobody watched.
    Found.FOUND_APPLIED: (S.STATE_INCONCLUSIVE, "it was applied"),
    Found.FOUND_NOT_APPLIED: (S.STATE_FAILED, "it was not applied"),
}


class Afterwards:
    """Takes what people say about actions that are over."""

    def __init__(self, ledger: Ledger, dispatch: Dispatch) -> None:
        self._ledger = ledger
        self._dispatch = dispatch

    async def resolve(
        self, action_id: str, *, who: str, found: Found.Found.ValueType, reason: str
    ) -> StoredAction:
        """Ends the not knowing about an UNKNOWN action, at the executor first.

        Raises what ResolveAction's comment lists.
        """
        async with self._ledger.transaction() as connection:
            action = await self._ledger.require(connection, action_id, lock=True)
            if action.state != S.STATE_UNKNOWN:
                raise conflict(action)
            _refuse_own(action, who)
            # Which takes the same word again, should its answer have been lost.
            await self._dispatch.resolve(
                str(action.request_id), who=who, found=found, reason=reason
            )
            state, sentence = _RESOLVED[found]
            fields: dict[str, Any] = {"message": f"{who} found: {sentence}"}
            return await self._ledger.move(
                connection,
                action,
                state,
                actor=who,
                details={"found": Found.Found.Name(found).removeprefix("FOUND_").lower()},
                said=reason,
                reason=action.reason,
                observations=dict(action.observations),
                **fields,
            )

    async def review(self, action_id: str, *, who: str, reason: str) -> StoredAction:
        """Stores that somebody answers for a broken glass; raises as ReviewBreakGlass says."""
        async with self._ledger.transaction() as connection:
            action = await self._ledger.require(connection, action_id, lock=True)
            if not action.break_glass or action.state == S.STATE_DENIED:
                raise FailedPrecondition(
                    "STATE_CONFLICT", f"{action_id} broke no glass", resource=action_id, state=""
                )
            _refuse_own(action, who)
            await self._store_review(connection, action, who, reason)
            return action

    async def _store_review(
        self, connection: Connection, action: StoredAction, who: str, reason: str
    ) -> None:
        said = (await store.words_about(connection, [action.action_id]))[action.action_id]
        reviewers = {each.approver for each in said if each.kind == "review"}
        if who not in reviewers and len(reviewers) >= REVIEWS_NEEDED:
            raise conflict(action)
        word = Word(
            action_id=action.action_id,
            approver=who,
            kind="review",
            step=0,
            group_name="",
            reason=reason,
            detached=False,
            envelope=None,
            at=self._ledger.clock(),
        )
        if not await store.insert(connection, word):
            raise AlreadyExists("APPROVAL_REPEATED", f"{who} has answered for it already")
        await self._ledger.record(connection, records.said(action, word))


def _refuse_own(action: StoredAction, who: str) -> None:
    if action.issuer == who:
        raise PermissionDenied("APPROVAL_OWN", "somebody else than who asked for it has to")
