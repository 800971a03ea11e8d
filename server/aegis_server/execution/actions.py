"""An action's way: opened, decided, recorded, sent, settled.

The row and its audit record are written before anything is sent. After that the answer may be
lost in a hundred ways; the action then stays DISPATCHED and `settlement` asks the executor again
until it knows. An action that people have to approve is not sent at all: once they have, its issuer
signs the same request again, and that fresh one is decided anew and sent with their approvals.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from datetime import datetime

from aegis.envelope import OpenedRequest, open_action
from aegis.errors import AegisError, PermissionDenied, Unavailable
from aegis.spiffe import Caller
from aegis.trust import TrustBundle
from aegis.v1 import envelope_pb2
from aegis_server.access import denied
from aegis_server.execution import records, store
from aegis_server.execution.approvals import store as words
from aegis_server.execution.approvals.obligations import BREAK_GLASS, Answer, Obligations
from aegis_server.execution.approvals.store import Word
from aegis_server.execution.asking import Names, check_form
from aegis_server.execution.dispatch import Dispatch
from aegis_server.execution.intake import Intake, Sending
from aegis_server.execution.ledger import Ledger
from aegis_server.execution.settlement import Settlement
from aegis_server.execution.states import S
from aegis_server.execution.store import StoredAction

__all__ = ["Actions", "Names"]

log = logging.getLogger(__name__)


class Actions:
    """Takes signed requests and sees them through."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        intake: Intake,
        obligations: Obligations,
        dispatch: Dispatch,
        settlement: Settlement,
        trust: TrustBundle,
        names: Names,
    ) -> None:
        self._ledger = ledger
        self._intake = intake
        self._obligations = obligations
        self._dispatch = dispatch
        self._settlement = settlement
        self._trust = trust
        self._names = names

    async def submit(self, envelope: envelope_pb2.SignedEnvelope, caller: Caller) -> StoredAction:
        """Returns the action as far as it came; raises what SubmitAction's comment lists."""
        try:
            return await self._take(envelope, caller)
        except AegisError as refusal:
            await self._ledger.refuse(caller.subject, "submit", refusal)
            raise

    async def get(self, action_id: str) -> StoredAction:
        """Returns one action; raises `NotFound`."""
        async with self._ledger.database.transaction() as connection:
            return await self._ledger.require(connection, action_id)

    async def page(
        self,
        after: tuple[datetime, str] | None,
        limit: int,
        *,
        states: Collection[int] = (),
        incident_id: str = "",
    ) -> list[StoredAction]:
        """Returns actions, newest first."""
        async with self._ledger.database.transaction() as connection:
            return await store.page(
                connection, after=after, limit=limit, states=states, incident_id=incident_id
            )

    async def said_about(self, actions: Sequence[StoredAction]) -> dict[str, list[Word]]:
        """Returns what people said about actions, by action id."""
        async with self._ledger.database.transaction() as connection:
            return await words.words_about(connection, [each.action_id for each in actions])

    async def _take(self, envelope: envelope_pb2.SignedEnvelope, caller: Caller) -> StoredAction:
        opened = self._open(envelope, caller)
        stored = await self._intake.retried(opened, envelope)
        if stored is not None:
            return stored
        async with self._ledger.database.transaction() as connection:
            await self._intake.refuse_paused(connection, opened)
        answer = await self._obligations.ask(
            records.question_of(opened), break_glass=opened.request.break_glass
        )
        async with self._ledger.transaction() as connection:
            action, sending = await self._intake.take(connection, opened, envelope, answer)
        if action.state == S.STATE_DENIED:
            raise _denial(action, answer)
        if sending is None:
            return action
        if action.break_glass:
            self._ledger.metrics.glass.inc()
            log.warning("%s broke the glass with %s", action.issuer, action.action_id)
        return await self._send(action, sending)

    async def _send(self, action: StoredAction, sending: Sending) -> StoredAction:
        outcome = await self._dispatch.execute(sending.request, sending.decision, sending.approvals)
        if outcome is None:
            return action
        try:
            return await self._settlement.settle(action, outcome)
        except Unavailable as error:
            # An error now would say "nothing was changed". It stays DISPATCHED until the
            # executor has been asked again.
            log.warning("%s is left to the reconciler: %s", action.action_id, error.message)
            return action

    def _open(self, envelope: envelope_pb2.SignedEnvelope, caller: Caller) -> OpenedRequest:
        opened = open_action(
            envelope,
            trust=self._trust,
            audience=self._names.audience,
            now=self._ledger.clock(),
            validate=check_form,
        )
        if opened.key.owner != caller.subject:
            raise PermissionDenied(
                "SIGNER_PEER_MISMATCH", "the request was signed by somebody else than its sender"
            )
        return opened


def _denial(action: StoredAction, answer: Answer) -> PermissionDenied:
    spec = envelope_pb2.ActionSpec.FromString(action.spec)
    glass = answer.decision.allowed
    deed = BREAK_GLASS if glass else records.verb_of(spec)
    error = denied(action.issuer, records.resource_of(spec), deed, action.rule_id)
    error.metadata["action_id"] = action.action_id
    return error
