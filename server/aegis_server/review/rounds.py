"""Rounds: closed when somebody asks for their verdicts, judged once, watched until nothing waits.

A round is closed in one transaction, which also writes down who asked and turns away what came
unasked; a crash leaves a closed round that waits, and the next call has exactly the same updates
judged. Where that happens is the queue's business: in this process, or at a worker elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from aegis.errors import NotFound, Unavailable
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis.serving.doors import Call
from aegis.v1 import audit_pb2
from aegis_server.review import store
from aegis_server.review.case import Verdict
from aegis_server.review.findings import Finding, encode, rows
from aegis_server.review.queue import store as queue
from aegis_server.review.queue.store import QueueRow
from aegis_server.review.store import RoundKey, RoundRow, UpdateRow
from aegis_server.review.updates import RESOURCE, Update, complete, details

# Longer than a round takes that has to be examined four times.
ANSWER_SECONDS = 270.0
_LOOK_SECONDS = 1.0
_UNASKED = Finding("intake", "not_asked", 1.0, 1.0, 1.0, "it was not asked for in this round")


class Queue(Protocol):
    """Has rounds judged."""

    async def examiners(self) -> int:
        """Returns how many rounds may be examined at the same time."""

    async def put(self, key: RoundKey) -> None:
        """Puts a closed round in line, unless it is there; returns at once."""

    async def judged(self, key: RoundKey) -> None:
        """Returns once a closed round is judged; raises what keeps it from that."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged round as it stands."""

    row: RoundRow
    updates: tuple[Update, ...]

    @property
    def held(self) -> bool:
        """Whether a person is waited for."""
        return any(update.verdict is Verdict.HELD for update in self.updates)


class Rounds:
    """Has rounds judged, and shows them."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        queue: Queue,
        clock: Callable[[], datetime],
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._database = database
        self._audit = audit
        self._queue = queue
        self._clock = clock
        self._answer_seconds = answer_seconds

    async def ask(self, key: RoundKey, by: Call, participants: Collection[str] = ()) -> None:
        """Closes a round, with what waits for earlier tries of it, and has it judged.

        `participants` are those that were asked for an update, everybody without any. Raises
        `NotFound` when it has no update of theirs.
        """
        await self._close(key, by, participants)
        await self._queue.put(key)

    async def _close(self, key: RoundKey, by: Call, participants: Collection[str]) -> None:
        async with self._database.transaction() as connection:
            # A round nobody sent anything for is gone again with this transaction.
            await store.open_round(connection, key)
            row = await store.lock_round(connection, key)
            was_open = row is not None and row.closed_at is None
            if was_open:
                await store.adopt(connection, key)
            found, now = await store.of_round(connection, key), self._clock()
            unasked = []
            if was_open and participants:
                unasked = [each for each in found if each.participant not in participants]
            if len(unasked) == len(found):
                raise _none(key, "has no update")
            await store.close_round(
                connection,
                key,
                by=by.caller.subject,
                policy_revision=by.grant.revision,
                rule_id=by.grant.rule_id,
                now=now,
            )
            if unasked:
                await self._turn_away(connection, unasked, by, now)

    async def _turn_away(
        self, connection: Connection, unasked: Collection[UpdateRow], by: Call, now: datetime
    ) -> None:
        """Rejects what came unasked: an update is judged by its peers, so those cannot be anybody.

        It says nothing about who sent it, so nothing of it is remembered.
        """
        for each in unasked:
            await store.write_verdict(
                connection,
                each.update_id,
                verdict=Verdict.REJECTED.value,
                score=_UNASKED.strength,
                findings=rows([_UNASKED]),
                false_positive_rate=1.0,
                would_change=(),
                hold_until=None,
                hold_default=None,
                detector="",
                golden_sha256=b"",
                evidence_sha256=b"",
                now=now,
            )
        await self._audit.record_in(connection, *(_turned_away(each, by) for each in unasked))

    async def judged(self, key: RoundKey) -> Judged:
        """Returns a closed round once it is judged.

        Raises `Unavailable` (REVIEW_BUSY) when that takes too long: it goes on, and asking again
        finds it.
        """
        try:
            async with asyncio.timeout(self._answer_seconds):
                await self._queue.judged(key)
        except TimeoutError as error:
            raise Unavailable(
                "REVIEW_BUSY",
                f"round {key.round} of {key.run_id} is not examined yet: ask again",
                run_id=key.run_id,
                round=key.round,
            ) from error
        return await self.get(key)

    async def get(self, key: RoundKey) -> Judged:
        """Returns a judged round; raises `NotFound`."""
        async with self._database.transaction() as connection:
            row = await store.round_of(connection, key)
            if row is None or row.judged_at is None:
                raise _none(key, "is not judged")
            return Judged(row, await _updates(connection, key))

    async def watch(self, key: RoundKey) -> AsyncIterator[Judged]:
        """Yields a judged round as it stands, and after every change until nothing is held."""
        shown: Judged | None = None
        while True:
            now = await self.get(key)
            if now != shown:
                yield now
                shown = now
            if not now.held:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def waiting(self) -> tuple[list[QueueRow], int]:
        """Returns the rounds on their way, oldest first, and how many may be examined at once."""
        async with self._database.transaction() as connection:
            found = await queue.rounds(connection)
        return found, await self._queue.examiners()


async def _updates(connection: Connection, key: RoundKey) -> tuple[Update, ...]:
    return tuple(await complete(connection, await store.of_round(connection, key)))


def _turned_away(row: UpdateRow, by: Call) -> Entry:
    key = RoundKey(row.run_id, row.round, row.attempt)
    return Entry(
        kind=audit_pb2.AUDIT_KIND_REVIEW,
        actor=by.caller.subject,
        action="judge",
        resource=f"{RESOURCE}/{row.update_id}",
        outcome=Verdict.REJECTED.value,
        reason=f"{_UNASKED.examiner}/{_UNASKED.measure}",
        policy_revision=by.grant.revision,
        rule_id=by.grant.rule_id,
        subject_id=row.update_id,
        details=details(key, row.participant, row.sha256),
        evidence={"findings.json": encode([_UNASKED])},
    )


def _none(key: RoundKey, why: str) -> NotFound:
    return NotFound(
        "RESOURCE_NOT_FOUND",
        f"round {key.round} of {key.run_id} {why}",
        resource=f"{RESOURCE}/{key.run_id}/{key.round}/{key.attempt}",
    )
