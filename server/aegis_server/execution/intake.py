"""Where signed requests become actions: each envelope once, each request once.

Everything here happens in the transaction that stores the action, its audit record and the spent
envelope together; nothing is sent from here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from aegis.algorithms import PrivateKey
from aegis.envelope import OpenedRequest
from aegis.errors import AlreadyExists, FailedPrecondition, Unauthenticated, Unavailable
from aegis.serving.database import Connection
from aegis.v1 import envelope_pb2
from aegis_server.execution import records, store
from aegis_server.execution.approvals import store as words
from aegis_server.execution.approvals.approvers import Approvers
from aegis_server.execution.approvals.counting import written_demands
from aegis_server.execution.approvals.deciding import Approvals, Times, given_of
from aegis_server.execution.approvals.obligations import Answer
from aegis_server.execution.approvals.store import Word
from aegis_server.execution.asking import (
    Judged,
    Names,
    decided_until,
    is_dry_run,
    judge,
    new_action,
    sign_decision,
)
from aegis_server.execution.gates import written as written_gates
from aegis_server.execution.ledger import Ledger
from aegis_server.execution.pauses.pausing import Pauses, paused
from aegis_server.execution.states import S
from aegis_server.execution.store import StoredAction

# Two others than who broke a glass answer for it, within a day.
REVIEWS_NEEDED = 2
_REVIEWED_WITHIN = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Sending:
    """What goes to the executor."""

    request: envelope_pb2.SignedEnvelope
    decision: envelope_pb2.SignedEnvelope
    approvals: tuple[envelope_pb2.SignedEnvelope, ...]


class Intake:
    """Stores what is asked for, as the policy's answer wants it."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        approvers: Approvers,
        approvals: Approvals,
        pauses: Pauses,
        decision_key: PrivateKey,
        names: Names,
        times: Times,
    ) -> None:
        self._ledger = ledger
        self._approvers = approvers
        self._approvals = approvals
        self._pauses = pauses
        self._decision_key = decision_key
        self._names = names
        self._times = times

    async def retried(
        self, opened: OpenedRequest, envelope: envelope_pb2.SignedEnvelope
    ) -> StoredAction | None:
        """Returns the stored action when this is a retry; refuses replays.

        None when the request is new, or is now to be carried out.
        """
        async with self._ledger.database.transaction() as connection:
            stored = await self._earlier(connection, opened, lock=True)
            if stored is None or self._is_due(stored):
                return None
            await self._spend(connection, stored, opened, envelope)
            return stored

    def _is_due(self, action: StoredAction) -> bool:
        until = action.execute_expires_at
        return (
            action.state == S.STATE_APPROVED
            and until is not None
            and (self._ledger.clock() < until)
        )

    async def _earlier(
        self, connection: Connection, opened: OpenedRequest, *, lock: bool
    ) -> StoredAction | None:
        request = opened.request
        spent = await store.spent_for(connection, opened.key.key_id, request.nonce)
        if spent:
            raise _replayed(spent)
        stored = await store.find(connection, request_id=request.request_id, lock=lock)
        if stored is not None and not _is_same(stored, opened):
            raise AlreadyExists("REQUEST_ID_REUSED", "this request_id was used for another request")
        return stored

    async def _spend(
        self,
        connection: Connection,
        action: StoredAction,
        opened: OpenedRequest,
        envelope: envelope_pb2.SignedEnvelope,
    ) -> None:
        fresh = await store.spend(
            connection,
            action.action_id,
            key_id=opened.key.key_id,
            nonce=opened.request.nonce,
            envelope=envelope.SerializeToString(),
            at=self._ledger.clock(),
        )
        if not fresh:
            raise _replayed(action.action_id)

    async def refuse_paused(self, connection: Connection, opened: OpenedRequest) -> None:
        """Raises `FailedPrecondition` (EXECUTION_PAUSED) while somebody stopped this."""
        pause = await self._pauses.holding(
            connection, opened.spec.target.namespace, records.verb_of(opened.spec)
        )
        if pause is not None:
            raise paused(pause)

    async def take(
        self,
        connection: Connection,
        opened: OpenedRequest,
        envelope: envelope_pb2.SignedEnvelope,
        answer: Answer,
    ) -> tuple[StoredAction, Sending | None]:
        """Writes down what becomes of a request; returns also what is to be sent, if anything."""
        stored = await self._earlier(connection, opened, lock=True)
        if stored is not None and not self._is_due(stored):
            # Somebody submitted the same request at the same moment and was first.
            await self._spend(connection, stored, opened, envelope)
            return stored, None
        now = self._ledger.clock()
        counting: list[Word] = []
        if stored is not None:
            about = await words.words_about(connection, [stored.action_id])
            counting = await self._approvals.counting(about[stored.action_id], now)
        judged = judge(opened, answer, given_of(counting))
        if judged.state == S.STATE_PENDING_APPROVAL:
            await self._approvers.require(judged.demands, opened.request.issuer)
        if judged.state == S.STATE_DISPATCHED and opened.request.break_glass:
            await self._refuse_unreviewed(connection, opened.request.issuer)
        if stored is not None:
            action, decision = await self._again(connection, stored, opened, envelope, judged, now)
        else:
            action, decision = await self._first(connection, opened, envelope, judged, now)
        await self._spend(connection, action, opened, envelope)
        # The log is locked by our record now: a pause is before us, and seen, or behind.
        await self.refuse_paused(connection, opened)
        if decision is None:
            return action, None
        approvals = tuple(
            envelope_pb2.SignedEnvelope.FromString(each.envelope or b"") for each in counting
        )
        return action, Sending(envelope, decision, approvals)

    async def _first(
        self,
        connection: Connection,
        opened: OpenedRequest,
        envelope: envelope_pb2.SignedEnvelope,
        judged: Judged,
        now: datetime,
    ) -> tuple[StoredAction, envelope_pb2.SignedEnvelope | None]:
        waits_until = now + self._times.approval
        action = new_action(opened, envelope, judged, now=now, waits_until=waits_until)
        decision = self._decision(opened, judged, action, now)
        if decision is not None:
            action = replace(action, decision_envelope=decision.SerializeToString())
        if not await self._ledger.open(connection, action):
            # Somebody submitted the same request at the same moment, and is committed by now.
            first = await self._earlier(connection, opened, lock=True)
            if first is None:
                raise Unavailable("DATABASE_UNAVAILABLE", "the request could not be stored")
            return first, None
        if action.break_glass and decision is not None:
            await self._ledger.record(connection, records.glass_broken(action))
        return action, decision

    async def _again(
        self,
        connection: Connection,
        stored: StoredAction,
        opened: OpenedRequest,
        envelope: envelope_pb2.SignedEnvelope,
        judged: Judged,
        now: datetime,
    ) -> tuple[StoredAction, envelope_pb2.SignedEnvelope | None]:
        """Moves an APPROVED action on: to the executor, or back when the policy changed."""
        decision = self._decision(opened, judged, stored, now)
        action = await self._ledger.move(
            connection,
            stored,
            judged.state,
            actor=stored.issuer,
            key_id=opened.key.key_id,
            nonce=opened.request.nonce,
            request_envelope=envelope.SerializeToString(),
            decision_envelope=None if decision is None else decision.SerializeToString(),
            execute_not_after=decided_until(opened, now),
            attributes=dict(opened.request.attributes),
            policy_revision=judged.decision.revision,
            rule_id=judged.decision.rule_id,
            reason="POLICY_DENIED" if judged.state == S.STATE_DENIED else "",
            message=judged.message,
            steps=written_demands(judged.demands),
            gates=written_gates(judged.gates),
            asked_at=now if decision is not None else None,
            **self._waits_anew(judged, now),
        )
        return action, decision

    def _waits_anew(self, judged: Judged, now: datetime) -> dict[str, Any]:
        if judged.state != S.STATE_PENDING_APPROVAL:
            return {}
        return {"approval_expires_at": now + self._times.approval, "execute_expires_at": None}

    def _decision(
        self, opened: OpenedRequest, judged: Judged, action: StoredAction, now: datetime
    ) -> envelope_pb2.SignedEnvelope | None:
        if judged.state != S.STATE_DISPATCHED:
            return None
        return sign_decision(
            opened, judged, action, names=self._names, key=self._decision_key, now=now
        )

    async def _refuse_unreviewed(self, connection: Connection, issuer: str) -> None:
        open_one = await store.unanswered_glass(
            connection,
            issuer,
            before=self._ledger.clock() - _REVIEWED_WITHIN,
            needed=REVIEWS_NEEDED,
        )
        if open_one:
            raise FailedPrecondition(
                "BREAK_GLASS_UNREVIEWED",
                f"two others have to answer for {open_one} first",
                action_id=open_one,
            )


def _is_same(stored: StoredAction, opened: OpenedRequest) -> bool:
    request = opened.request
    return (
        stored.action_digest,
        stored.issuer,
        stored.break_glass,
        stored.dry_run,
    ) == (opened.action_digest, request.issuer, request.break_glass, is_dry_run(request))


def _replayed(action_id: str) -> Unauthenticated:
    return Unauthenticated(
        "REPLAY_DETECTED",
        "this envelope was already taken; sign again to retry",
        action_id=action_id,
    )
