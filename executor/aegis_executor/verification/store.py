"""SQL of baselines, verdicts and what was sent to take a change back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aegis.serving.database import Connection


@dataclass(frozen=True, slots=True)
class Applied:
    """An execution the cluster took and nobody has judged, with all that is written about it."""

    request_id: str
    action_id: str
    action: str
    issuer: str
    action_digest: bytes
    request: bytes
    kind: str
    namespace: str
    name: str
    incident_id: str
    approved: bool
    break_glass: bool
    intent_at: datetime
    observations: Mapping[str, str]
    ended_at: datetime
    # What was sent last; None when it was so already.
    generation: int | None
    sent_at: datetime | None
    baseline: Mapping[str, Any] | None
    # What was sent last to take it back.
    undo_number: int | None
    undo_uid: str | None
    undo_resource_version: str | None
    undo_generation: int | None
    undo_sent_at: datetime | None


@dataclass(frozen=True, slots=True)
class Judged:
    """A row of `verdict`."""

    request_id: str
    state: str
    reason: str
    message: str
    observations: Mapping[str, str]
    at: datetime


@dataclass(frozen=True, slots=True)
class UndoAttempt:
    """A row of `undo_attempt`."""

    request_id: str
    number: int
    uid: str
    resource_version: str
    generation: int
    sent_at: datetime


async def insert_baseline(
    connection: Connection, request_id: str, observations: Mapping[str, Any], at: datetime
) -> None:
    """Remembers how it was; the first stands, for a repeat may see what the change did."""
    await connection.execute(
        """
        insert into aegis_executor.baseline (request_id, observations, at) values (%s, %s, %s)
        on conflict do nothing
        """,
        (request_id, Jsonb(dict(observations)), at),
    )


async def unjudged(
    connection: Connection, since: datetime | None, watched: Sequence[str]
) -> list[Applied]:
    """Returns what was applied and not judged, that ended since or is watched, oldest first.

    Intents without a kind are older than verification.
    """
    async with connection.cursor(row_factory=class_row(Applied)) as cursor:
        await cursor.execute(
            """
            select intent.request_id::text, intent.action_id, intent.action, intent.issuer,
                   intent.action_digest, intent.request, intent.kind, intent.namespace, intent.name,
                   intent.incident_id, intent.approved, intent.break_glass, intent.intent_at,
                   ending.observations, ending.ended_at, attempt.generation, attempt.sent_at,
                   baseline.observations as baseline, undo.number as undo_number,
                   undo.uid as undo_uid, undo.resource_version as undo_resource_version,
                   undo.generation as undo_generation, undo.sent_at as undo_sent_at
            from aegis_executor.ending
            join aegis_executor.intent using (request_id)
            left join aegis_executor.baseline using (request_id)
            left join lateral (
                select generation, sent_at from aegis_executor.attempt
                where attempt.request_id = ending.request_id order by number desc limit 1
            ) attempt on true
            left join lateral (
                select number, uid, resource_version, generation, sent_at
                from aegis_executor.undo_attempt
                where undo_attempt.request_id = ending.request_id order by number desc limit 1
            ) undo on true
            where ending.state = 'APPLIED' and intent.kind <> ''
                and (%(since)s::timestamptz is null or ending.ended_at > %(since)s
                     or ending.request_id = any(%(watched)s::uuid[]))
                and not exists (select from aegis_executor.verdict
                                where verdict.request_id = ending.request_id)
            order by ending.ended_at
            """,
            {"since": since, "watched": list(watched)},
        )
        return await cursor.fetchall()


async def insert_verdict(connection: Connection, judged: Judged) -> bool:
    """Judges an execution; False when it was judged before, for the first verdict stands."""
    cursor = await connection.execute(
        """
        insert into aegis_executor.verdict (request_id, state, reason, message, observations, at)
        values (%s, %s, %s, %s, %s, %s) on conflict do nothing returning true
        """,
        (
            judged.request_id,
            judged.state,
            judged.reason,
            judged.message,
            Jsonb(dict(judged.observations)),
            judged.at,
        ),
    )
    return await cursor.fetchone() is not None


async def insert_undo_attempt(connection: Connection, attempt: UndoAttempt) -> None:
    """Remembers what is about to be sent to take a change back."""
    await connection.execute(
        """
        insert into aegis_executor.undo_attempt
            (request_id, number, uid, resource_version, generation, sent_at)
        values (%s, %s, %s, %s, %s, %s)
        """,
        (
            attempt.request_id,
            attempt.number,
            attempt.uid,
            attempt.resource_version,
            attempt.generation,
            attempt.sent_at,
        ),
    )
