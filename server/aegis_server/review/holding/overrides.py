"""Overrides: a person decides otherwise than the examiners, or decides what they left open.

One person is enough, but for what was REJECTED and shall be ACCEPTED, or is HELD and was sent by
that person in its participant's name: the first one proposes it, and somebody else has to say the
same. Both have to be people. A proposal falls when the update is decided another way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from aegis.errors import FailedPrecondition
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis.serving.doors import Call
from aegis.v1 import audit_pb2
from aegis_server.access import Access, Needs
from aegis_server.review import store as updates_store
from aegis_server.review.case import Verdict
from aegis_server.review.cases import Memory
from aegis_server.review.holding import store
from aegis_server.review.people import require_two_people
from aegis_server.review.updates import RESOURCE, RunLookup, Update, complete, details, unknown

_NEEDS = Needs(RESOURCE, "override")


@dataclass(frozen=True, slots=True)
class Overridden:
    """What came of a call: the update, whether somebody else has to say the same, and whether the
    round's model was made before."""

    update: Update
    needs_second_person: bool
    too_late_for_model: bool


class Overrides:
    """Lets people decide."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        access: Access,
        runs: RunLookup,
        clock: Callable[[], datetime],
        memory: Memory | None = None,
    ) -> None:
        self._memory = memory
        self._database = database
        self._audit = audit
        self._access = access
        self._runs = runs
        self._clock = clock

    async def override(
        self, update_id: str, wanted: Verdict, reason: str, call: Call
    ) -> Overridden:
        """Changes a verdict, or proposes to.

        Raises `NotFound`, `PermissionDenied`, or `FailedPrecondition`: STATE_CONFLICT for what is
        PENDING, already so, or changed meanwhile, SECOND_PERSON_NEEDED.
        """
        before = await self._update(update_id)
        grant = await self._access.require(
            call.caller,
            _NEEDS,
            method=call.method,
            attributes={
                "from": before.verdict.value,
                "to": wanted.value,
                "run": before.key.run_id,
            },
            current=True,
        )
        call = call._replace(grant=grant)
        async with self._database.transaction() as connection:
            verdict = await store.lock_update(connection, update_id)
            # The policy was asked about the verdict as it was then.
            if verdict != before.verdict.value or verdict in (Verdict.PENDING, wanted):
                raise _conflict(update_id, verdict or "")
            done = await self._decide(connection, before, wanted, reason, call)
            (row,) = await _rows(connection, update_id)
            (update,) = await complete(connection, [row])
            told = [self._entry(update, before.verdict, wanted, reason, call, done=done)]
            if done and self._memory is not None:
                names = [update.participant]
                told += await self._memory.reckon(connection, names, now=self._clock())
            await self._audit.record_in(connection, *told)
        base = await self._runs.base_of(update.key.run_id, update.key.round)
        return Overridden(update, not done, base.made)

    async def _update(self, update_id: str) -> Update:
        async with self._database.transaction() as connection:
            rows = await _rows(connection, update_id)
            if not rows:
                raise unknown(update_id)
            return (await complete(connection, rows))[0]

    async def _decide(
        self, connection: Connection, before: Update, wanted: Verdict, reason: str, call: Call
    ) -> bool:
        """Returns whether it is decided; False when it waits for somebody else."""
        update_id, subject, now = before.update_id, call.caller.subject, self._clock()
        two = wanted is Verdict.ACCEPTED and (
            before.verdict is Verdict.REJECTED or before.sent_by == subject
        )
        found = (await store.overrides_of(connection, [update_id])).get(update_id, ())
        waiting = next((each for each in found if not each.effective), None)
        if two:
            first = waiting.by_whom if waiting is not None else ""
            require_two_people(subject, first=first, deed="accept this")
        if two and waiting is not None:
            await store.confirm(connection, waiting.seq, by=subject, now=now)
        else:
            await store.withdraw(connection, update_id)
            await store.add(
                connection,
                update_id,
                before=before.verdict.value,
                after=wanted.value,
                by=subject,
                reason=reason,
                effective=not two,
                now=now,
            )
            if two:
                return False
        await store.set_verdict(connection, update_id, wanted.value)
        return True

    def _entry(
        self,
        update: Update,
        before: Verdict,
        wanted: Verdict,
        reason: str,
        call: Call,
        *,
        done: bool,
    ) -> Entry:
        confirmed = update.overrides[-1].confirmed_by if update.overrides else ""
        known = {"from": before.value, "to": wanted.value, "reason": reason}
        if done and confirmed:
            known["first"] = update.overrides[-1].by_whom
        return Entry(
            kind=audit_pb2.AUDIT_KIND_REVIEW,
            actor=call.caller.subject,
            action="override",
            resource=f"{RESOURCE}/{update.update_id}",
            outcome=wanted.value if done else "proposed",
            policy_revision=call.grant.revision,
            rule_id=call.grant.rule_id,
            subject_id=update.update_id,
            details={**details(update.key, update.participant, update.sha256), **known},
        )


async def _rows(connection: Connection, update_id: str) -> list[updates_store.UpdateRow]:
    row = await updates_store.find(connection, update_id)
    return [row] if row is not None else []


def _conflict(update_id: str, verdict: str) -> FailedPrecondition:
    return FailedPrecondition(
        "STATE_CONFLICT",
        f"{update_id} is {verdict.upper()}",
        resource=f"{RESOURCE}/{update_id}",
        state=verdict.upper(),
    )
