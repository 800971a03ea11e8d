"""SQL of the journal, and the lock that keeps a second executor away from it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aegis.errors import Aborted
from aegis.serving.database import ALIVE, Connection
from aegis_executor.guards import epoch as epochs
from aegis_executor.guards.epoch import Epoch

log = logging.getLogger(__name__)

_LOCK = 0x6A726E6C  # "jrnl"
_LOCK_SECONDS = 3
_CHECK_SECONDS = 1.0
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Intent:
    """A row of `intent`."""

    request_id: str
    action_id: str
    action: str
    issuer: str
    action_digest: bytes
    key_id: str
    nonce: bytes
    request: bytes
    decision: bytes
    intent_at: datetime
    # What guards count by.
    kind: str
    namespace: str
    name: str
    incident_id: str
    approved: bool
    break_glass: bool
    epoch: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of `attempt`."""

    request_id: str
    number: int
    uid: str
    resource_version: str
    generation: int
    sent_at: datetime
    observations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ending:
    """A row of `ending`."""

    request_id: str
    state: str
    reason: str
    message: str
    observations: Mapping[str, str]
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row of `verdict`."""

    state: str
    reason: str
    message: str
    observations: Mapping[str, str]
    at: datetime


_INTENT = """
select request_id::text, action_id, action, issuer, action_digest, key_id, nonce, request,
       decision, intent_at, kind, namespace, name, incident_id, approved, break_glass, epoch
from aegis_executor.intent
"""


async def insert_intent(connection: Connection, intent: Intent) -> bool:
    """Claims request id and nonce; False when one of them is taken.

    The insert waits for another transaction that claims the same, so exactly one succeeds.
    """
    cursor = await connection.execute(
        """
        insert into aegis_executor.intent
            (request_id, action_id, action, issuer, action_digest, key_id, nonce, request,
             decision, intent_at, kind, namespace, name, incident_id, approved, break_glass,
             epoch)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict do nothing returning true
        """,
        (
            intent.request_id,
            intent.action_id,
            intent.action,
            intent.issuer,
            intent.action_digest,
            intent.key_id,
            intent.nonce,
            intent.request,
            intent.decision,
            intent.intent_at,
            intent.kind,
            intent.namespace,
            intent.name,
            intent.incident_id,
            intent.approved,
            intent.break_glass,
            intent.epoch,
        ),
    )
    return await cursor.fetchone() is not None


async def intent_by_id(connection: Connection, request_id: str) -> Intent | None:
    """Returns the intent of a request."""
    async with connection.cursor(row_factory=class_row(Intent)) as cursor:
        await cursor.execute(_INTENT + "where request_id = %s", (request_id,))
        return await cursor.fetchone()


async def request_of_nonce(connection: Connection, key_id: str, nonce: bytes) -> str | None:
    """Returns the request a nonce was spent on."""
    cursor = await connection.execute(
        "select request_id::text from aegis_executor.intent where key_id = %s and nonce = %s",
        (key_id, nonce),
    )
    row = await cursor.fetchone()
    return str(row[0]) if row else None


async def unfinished(connection: Connection) -> list[Intent]:
    """Returns the intents without an end, oldest first."""
    async with connection.cursor(row_factory=class_row(Intent)) as cursor:
        await cursor.execute(
            _INTENT
            + "where not exists (select from aegis_executor.ending"
            + " where ending.request_id = intent.request_id) order by intent_at"
        )
        return await cursor.fetchall()


async def insert_attempt(connection: Connection, attempt: Attempt) -> None:
    """Remembers what is about to be sent."""
    await connection.execute(
        """
        insert into aegis_executor.attempt
            (request_id, number, uid, resource_version, generation, sent_at, observations)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (
            attempt.request_id,
            attempt.number,
            attempt.uid,
            attempt.resource_version,
            attempt.generation,
            attempt.sent_at,
            Jsonb(dict(attempt.observations)),
        ),
    )


async def last_attempt(connection: Connection, request_id: str) -> Attempt | None:
    """Returns what was sent last for a request; earlier ones are known to have conflicted."""
    async with connection.cursor(row_factory=class_row(Attempt)) as cursor:
        await cursor.execute(
            """
            select request_id::text, number, uid, resource_version, generation, sent_at,
                   observations
            from aegis_executor.attempt where request_id = %s order by number desc limit 1
            """,
            (request_id,),
        )
        return await cursor.fetchone()


async def insert_ending(connection: Connection, ending: Ending) -> bool:
    """Ends a request; False when it had ended before, for the first end stands."""
    cursor = await connection.execute(
        """
        insert into aegis_executor.ending
            (request_id, state, reason, message, observations, ended_at)
        values (%s, %s, %s, %s, %s, %s) on conflict do nothing returning true
        """,
        (
            ending.request_id,
            ending.state,
            ending.reason,
            ending.message,
            Jsonb(dict(ending.observations)),
            ending.ended_at,
        ),
    )
    return await cursor.fetchone() is not None


async def ending_by_id(connection: Connection, request_id: str) -> Ending | None:
    """Returns how a request ended."""
    async with connection.cursor(row_factory=class_row(Ending)) as cursor:
        await cursor.execute(
            """
            select request_id::text, state, reason, message, observations, ended_at
            from aegis_executor.ending where request_id = %s
            """,
            (request_id,),
        )
        return await cursor.fetchone()


async def verdict_by_id(connection: Connection, request_id: str) -> Verdict | None:
    """Returns whether a request that was applied helped, once that is known."""
    async with connection.cursor(row_factory=class_row(Verdict)) as cursor:
        await cursor.execute(
            """
            select state, reason, message, observations, at
            from aegis_executor.verdict where request_id = %s
            """,
            (request_id,),
        )
        return await cursor.fetchone()


class OnlyExecutor:
    """The journal's lock and the epoch that goes with it; an async context manager.

    A second executor would end as interrupted what the first is still doing. Entering raises
    RuntimeError when another one holds the lock for 3 s (a killed one loses it at once); a
    `standby` waits for it instead, for as long as it takes.
    """

    def __init__(
        self,
        url: str,
        *,
        holder: str = "",
        standby: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._url = url
        self._holder = holder
        self._standby = standby
        self._clock = clock
        self._connection: Connection | None = None
        self._epoch: Epoch | None = None

    @property
    def epoch(self) -> Epoch:
        """Our turn, once entered."""
        if self._epoch is None:
            raise RuntimeError("the journal's lock has not been taken")
        return self._epoch

    async def __aenter__(self) -> Self:
        """Takes the lock and begins an epoch."""
        while True:
            try:
                connection = await self._take()
                self._epoch = await epochs.begin(connection, self._holder, self._clock())
            except Taken:
                if not self._standby:
                    raise
            except psycopg.OperationalError as error:
                if not self._standby:
                    raise
                log.warning("standing by: %s", error)
                await self._let_go()
                await asyncio.sleep(_CHECK_SECONDS)
            else:
                return self

    async def __aexit__(self, *_: object) -> None:
        """Gives it back."""
        await self._let_go()

    async def keep(self) -> None:
        """Holds the lock until cancelled; run it as a part.

        A lock goes with its connection, and connections break. Then it is taken again; raises
        RuntimeError when another executor was faster, for then this one must stop.
        """
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                if self._connection is None:
                    await self._resume(await self._take())
                else:
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        await self._connection.execute("select 1")
            except (psycopg.OperationalError, TimeoutError) as error:
                # No answer is as bad: the other end may have given the lock away.
                log.warning("the journal's lock may be lost: %s", error)
                await self._let_go()

    async def _resume(self, connection: Connection) -> None:
        """Goes on in our epoch, unless another executor was there and ended what we began."""
        try:
            async with connection.transaction():
                await self.epoch.check(connection)
        except Aborted as error:
            await self._let_go()
            raise RuntimeError(f"another executor has used this journal: {error}") from error

    async def _take(self) -> Connection:
        connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True, **ALIVE)
        self._connection = connection
        for _ in range(_LOCK_SECONDS * 5):
            cursor = await connection.execute("select pg_try_advisory_lock(%s)", (_LOCK,))
            if await cursor.fetchone() == (True,):
                return connection
            await asyncio.sleep(0.2)
        await self._let_go()
        raise Taken("another executor is using this journal")

    async def _let_go(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


class Taken(RuntimeError):
    """Another executor holds the journal's lock."""
