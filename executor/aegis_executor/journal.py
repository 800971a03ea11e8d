"""The journal: what was asked is written down before it is done, and how it ended after.

Claiming a request spends its nonce and its id in one transaction with the INTENT, so there is no
moment at which a replay could slip in between. The audit log is written in the same transactions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from aegis.errors import AlreadyExists, NotFound, Unauthenticated
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis.v1 import envelope_pb2
from aegis_executor import records, store
from aegis_executor.admission import Admitted
from aegis_executor.catalogue.base import Change, Sent
from aegis_executor.ports import Epoch
from aegis_executor.store import Intent, Verdict

State: TypeAlias = Literal["APPLIED", "FAILED", "UNKNOWN", "DRY_RUN"]
# What has to agree before a claim stands.
Condition: TypeAlias = Callable[[Connection], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ending:
    """How an execution ended; `reason` is an ErrorReason name, empty when nothing went wrong."""

    state: State
    reason: str = ""
    message: str = ""
    observations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Execution:
    """What became of a request, as far as it is known."""

    request_id: str
    action_id: str
    action_digest: bytes
    intent_at: datetime
    ending: Ending | None = None
    ended_at: datetime | None = None
    # Whether it helped, once that is known.
    verdict: Verdict | None = None


class Journal:
    """The executor's own schema in Postgres; every method is one transaction.

    All raise `Unavailable` (DATABASE_UNAVAILABLE); those that write raise `Aborted` (FENCED) once
    another executor has taken over.
    """

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        *,
        name: str,
        epoch: Epoch,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._name = name
        self._epoch = epoch
        self._clock = clock

    async def stored(self, admitted: Admitted) -> Execution | None:
        """Returns the execution of a request that was claimed before, by the same issuer.

        Whatever stands in the way of new ones now, it was carried out or refused then.
        """
        async with self._database.transaction() as connection:
            stored = await store.intent_by_id(connection, admitted.request_id)
            if stored is None or not _same(stored, admitted):
                return None
            spent_on = await store.request_of_nonce(
                connection, admitted.request_key.key_id, admitted.nonce
            )
            if spent_on not in (None, stored.request_id):
                return None
            return await self._with_ending(connection, stored)

    async def claim(self, admitted: Admitted, condition: Condition) -> tuple[Execution, bool]:
        """Writes the INTENT; returns it and True, or the stored execution and False.

        `condition` is asked in the same transaction, after the claim is known to be the first:
        what it raises undoes the claim. Raises `Unauthenticated` (REPLAY_DETECTED) for a nonce
        that was spent on another request and `AlreadyExists` (REQUEST_ID_REUSED) for an id that
        named another action, or a dry run of it.
        """
        intent = self._intent(admitted)
        async with self._database.transaction() as connection:
            await self._epoch.check(connection)
            if await store.insert_intent(connection, intent):
                await condition(connection)
                await self._audit.record_in(connection, records.intended(intent, admitted))
                return _execution(intent), True
            spent_on = await store.request_of_nonce(connection, intent.key_id, intent.nonce)
            stored = await store.intent_by_id(connection, intent.request_id)
            if stored is None or spent_on not in (None, stored.request_id):
                raise Unauthenticated("REPLAY_DETECTED", "the nonce was spent on another request")
            if not _same(stored, admitted):
                raise AlreadyExists("REQUEST_ID_REUSED", "the request id named another action")
            return await self._with_ending(connection, stored), False

    def _intent(self, admitted: Admitted) -> Intent:
        place = admitted.remedy.place
        return Intent(
            request_id=admitted.request_id,
            action_id=admitted.action_id,
            action=admitted.remedy.verb,
            issuer=admitted.issuer,
            action_digest=admitted.action_digest,
            key_id=admitted.request_key.key_id,
            nonce=admitted.nonce,
            request=admitted.request,
            decision=admitted.decision,
            intent_at=self._clock(),
            kind=place.kind.value,
            namespace=place.namespace,
            name=place.name,
            incident_id=admitted.spec.incident_id,
            approved=admitted.standing.approved,
            break_glass=admitted.standing.break_glass,
            epoch=self._epoch.number,
        )

    async def find(self, request_id: str) -> Execution:
        """Returns an execution; raises `NotFound` (RESOURCE_NOT_FOUND)."""
        async with self._database.transaction() as connection:
            return await self._found(connection, request_id)

    async def sending(self, request_id: str, number: int, change: Change) -> None:
        """Writes down what is about to be sent to the cluster."""
        attempt = store.Attempt(
            request_id=request_id,
            number=number,
            uid=change.place.uid,
            resource_version=change.resource_version,
            generation=change.generation,
            sent_at=self._clock(),
            observations=change.observations,
        )
        async with self._database.transaction() as connection:
            await self._epoch.check(connection)
            await store.insert_attempt(connection, attempt)

    async def end(self, request_id: str, ending: Ending) -> Execution:
        """Writes the end, unless there is one already; returns what now stands."""
        row = store.Ending(
            request_id=request_id,
            state=ending.state,
            reason=ending.reason,
            message=ending.message,
            observations=ending.observations,
            ended_at=self._clock(),
        )
        async with self._database.transaction() as connection:
            await self._epoch.check(connection)
            first = await store.insert_ending(connection, row)
            intent = await store.intent_by_id(connection, request_id)
            if first and intent is not None:
                await self._audit.record_in(connection, records.ended(intent, row, self._name))
            return await self._found(connection, request_id)

    async def unfinished(self) -> list[Intent]:
        """Returns every INTENT without an end."""
        async with self._database.transaction() as connection:
            return await store.unfinished(connection)

    async def last_sent(self, request_id: str) -> tuple[Sent, datetime] | None:
        """Returns what was sent last and when; None means that nothing ever was."""
        async with self._database.transaction() as connection:
            attempt = await store.last_attempt(connection, request_id)
        if attempt is None:
            return None
        sent = Sent(attempt.uid, attempt.resource_version, attempt.generation, attempt.observations)
        return sent, attempt.sent_at

    async def _found(self, connection: Connection, request_id: str) -> Execution:
        stored = await store.intent_by_id(connection, request_id)
        if stored is None:
            raise NotFound(
                "RESOURCE_NOT_FOUND", "no such execution", resource=f"executions/{request_id}"
            )
        return await self._with_ending(connection, stored)

    async def _with_ending(self, connection: Connection, intent: Intent) -> Execution:
        ending = await store.ending_by_id(connection, intent.request_id)
        verdict = await store.verdict_by_id(connection, intent.request_id)
        return _execution(intent, ending, verdict)


def _same(stored: Intent, admitted: Admitted) -> bool:
    """True for a repeat: the same action, of the same issuer, tried or done as before.

    The digest is that of the spec; whether it is only tried stands in the request around it.
    """
    if (bytes(stored.action_digest), stored.issuer) != (admitted.action_digest, admitted.issuer):
        return False
    # These bytes were verified and validated before they were written down.
    mode = envelope_pb2.ActionRequest.FromString(bytes(stored.request)).mode
    return (mode == envelope_pb2.ActionRequest.MODE_DRY_RUN) == admitted.dry_run


def _execution(
    intent: Intent, row: store.Ending | None = None, verdict: Verdict | None = None
) -> Execution:
    ending = None
    if row is not None:
        state: State = row.state  # type: ignore[assignment]  # the table's check allows no other
        ending = Ending(state, row.reason, row.message, row.observations)
    return Execution(
        request_id=intent.request_id,
        action_id=intent.action_id,
        action_digest=bytes(intent.action_digest),
        intent_at=intent.intent_at,
        ending=ending,
        ended_at=row.ended_at if row is not None else None,
        verdict=verdict,
    )
