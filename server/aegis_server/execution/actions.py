"""An action's way: opened, decided, recorded, sent, settled.

The row and its audit record are written before anything is sent. After that the answer may be
lost in a hundred ways; the action then stays DISPATCHED and `settlement` asks the executor again
until it knows.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis import dsse
from aegis.envelope import MAX_SKEW, OpenedRequest, open_action
from aegis.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.doors import validate
from aegis.spiffe import Caller
from aegis.trust import TrustBundle
from aegis.v1 import envelope_pb2, execution_pb2
from aegis_server.access import denied
from aegis_server.execution import records, store
from aegis_server.execution.dispatch import Dispatch
from aegis_server.execution.settlement import Settlement
from aegis_server.execution.store import StoredAction
from aegis_server.policy.decisions import Decision, Decisions

log = logging.getLogger(__name__)

_DECISION_LIFE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Names:
    """Who this server is to those whose signatures it checks, and whom it sends work to."""

    audience: str
    executor: str


class Actions:
    """Takes signed requests and sees them through."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        decisions: Decisions,
        dispatch: Dispatch,
        settlement: Settlement,
        trust: TrustBundle,
        decision_key: Ed25519PrivateKey,
        names: Names,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._decisions = decisions
        self._dispatch = dispatch
        self._settlement = settlement
        self._trust = trust
        self._decision_key = decision_key
        self._names = names
        self._clock = clock

    async def submit(self, envelope: envelope_pb2.SignedEnvelope, caller: Caller) -> StoredAction:
        """Returns the action as far as it came; raises what SubmitAction's comment lists."""
        try:
            return await self._take(envelope, caller)
        except (InvalidArgument, Unauthenticated, PermissionDenied, AlreadyExists) as refusal:
            # A denial by policy was recorded with its action.
            if refusal.reason != "POLICY_DENIED":
                await self._audit.record(records.refused(caller, refusal))
            raise

    async def _take(self, envelope: envelope_pb2.SignedEnvelope, caller: Caller) -> StoredAction:
        opened = self._open(envelope, caller)
        earlier = await self._earlier(opened)
        if earlier is not None:
            return earlier
        question = records.question_of(opened)
        decision = await self._decisions.decide(question, current=True)
        action, decision_envelope = self._action(opened, envelope, decision)
        async with self._database.transaction() as connection:
            taken = not await store.insert(connection, action)
            if not taken:
                await self._audit.record_in(connection, records.decided(action, decision))
        if taken:
            # Somebody submitted the same request at the same moment and was first.
            stored = await self._earlier(opened)
            if stored is None:
                raise Unavailable("DATABASE_UNAVAILABLE", "the request could not be stored")
            return stored
        if decision_envelope is None:
            denial = denied(question.subject, question.resource, question.action, decision.rule_id)
            denial.metadata["action_id"] = action.action_id
            raise denial
        outcome = await self._dispatch.execute(envelope, decision_envelope)
        if outcome is None:
            return action
        try:
            return await self._settlement.settle(action, outcome)
        except Unavailable as error:
            # An error now would say "nothing was changed". It stays DISPATCHED until the
            # executor has been asked again.
            log.warning("%s is left to the reconciler: %s", action.action_id, error.message)
            return action

    async def get(self, action_id: str) -> StoredAction:
        """Returns one action; raises `NotFound`."""
        async with self._database.transaction() as connection:
            action = await store.find(connection, action_id=action_id)
        if action is None:
            raise NotFound(
                "RESOURCE_NOT_FOUND", f"there is no action {action_id}", resource=action_id
            )
        return action

    async def page(self, after: tuple[datetime, str] | None, limit: int) -> list[StoredAction]:
        """Returns actions, newest first."""
        async with self._database.transaction() as connection:
            return await store.page(connection, after=after, limit=limit)

    def _open(self, envelope: envelope_pb2.SignedEnvelope, caller: Caller) -> OpenedRequest:
        opened = open_action(
            envelope,
            trust=self._trust,
            audience=self._names.audience,
            now=self._clock(),
            validate=validate,
        )
        if opened.key.owner != caller.subject:
            raise PermissionDenied(
                "SIGNER_PEER_MISMATCH", "the request was signed by somebody else than its sender"
            )
        return opened

    async def _earlier(self, opened: OpenedRequest) -> StoredAction | None:
        """Returns the stored action when this is a retry; refuses replays."""
        request = opened.request
        async with self._database.transaction() as connection:
            replayed = await store.find(connection, nonce=(opened.key.key_id, request.nonce))
            stored = await store.find(connection, request_id=request.request_id)
        if replayed is not None:
            raise Unauthenticated(
                "REPLAY_DETECTED",
                "this envelope was already taken; sign again to retry",
                action_id=replayed.action_id,
            )
        if stored is None:
            return None
        if stored.action_digest != opened.action_digest or stored.issuer != request.issuer:
            raise AlreadyExists("REQUEST_ID_REUSED", "this request_id was used for another request")
        return stored

    def _action(
        self,
        opened: OpenedRequest,
        envelope: envelope_pb2.SignedEnvelope,
        decision: Decision,
    ) -> tuple[StoredAction, envelope_pb2.SignedEnvelope | None]:
        now = self._clock()
        action_id = f"act-{uuid.uuid4().hex[:20]}"
        # A request is taken a little after its end, for the clocks' sake; so is its decision.
        until = min(now + _DECISION_LIFE, opened.expires_at + MAX_SKEW)
        signed = self._sign(opened, decision, action_id, until) if decision.allowed else None
        state = (
            execution_pb2.Action.STATE_DISPATCHED
            if signed is not None
            else execution_pb2.Action.STATE_DENIED
        )
        action = StoredAction(
            action_id=action_id,
            request_id=uuid.UUID(opened.request.request_id),
            key_id=opened.key.key_id,
            nonce=opened.request.nonce,
            issuer=opened.request.issuer,
            spec=opened.request.spec,
            action_digest=opened.action_digest,
            request_envelope=envelope.SerializeToString(),
            decision_envelope=signed.SerializeToString() if signed is not None else None,
            execute_not_after=until,
            state=state,
            reason="" if decision.allowed else "POLICY_DENIED",
            message="",
            observations={},
            policy_revision=decision.revision,
            rule_id=decision.rule_id,
            created_at=now,
            updated_at=now,
        )
        return action, signed

    def _sign(
        self, opened: OpenedRequest, decision: Decision, action_id: str, until: datetime
    ) -> envelope_pb2.SignedEnvelope:
        payload = envelope_pb2.ActionDecision(
            decision_id=decision.decision_id,
            action_digest=opened.action_digest,
            request_sha256=opened.payload_sha256,
            subject=opened.request.issuer,
            action_id=action_id,
            executor=self._names.executor,
            cluster=opened.spec.target.cluster,
            policy_revision=decision.revision,
            rule_id=decision.rule_id,
        )
        payload.issue_time.FromDatetime(self._clock())
        payload.execute_not_after.FromDatetime(until)
        return dsse.sign(dsse.DECISION_TYPE, payload.SerializeToString(), self._decision_key)
