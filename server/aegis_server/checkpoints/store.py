"""SQL of the checkpoints room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aegis.serving.database import Connection


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A row of aegis.model, with what its run and its round say of it."""

    model_sha256: bytes
    run_id: str
    round: int
    parent_sha256: bytes | None
    size_bytes: int
    created_at: datetime
    code_version: str
    ingredients: Sequence[Mapping[str, object]]
    key_id: str
    plan: bytes
    actor: str
    policy_revision: int
    rule_id: str
    accuracy: float
    loss: float
    epsilon: float
    blocked: str
    released_by: str
    release_reason: str


@dataclass(frozen=True, slots=True)
class Judged:
    """What the review made of an update."""

    update_id: str
    sha256: bytes
    verdict: str
    score: float
    reviewed_at: datetime | None


async def judged(connection: Connection, update_ids: Sequence[str]) -> dict[str, Judged]:
    """Returns those of these updates that the review has."""
    async with connection.cursor(row_factory=class_row(Judged)) as cursor:
        await cursor.execute(
            """
            select update_id, sha256, verdict, score, reviewed_at from aegis.review_update
            where update_id = any(%s)
            """,
            (list(update_ids),),
        )
        return {found.update_id: found for found in await cursor.fetchall()}


async def insert_model(
    connection: Connection,
    *,
    model_sha256: bytes,
    run_id: str,
    round: int,  # noqa: A002
    parent_sha256: bytes | None,
    size_bytes: int,
    created_at: datetime,
    code_version: str,
    ingredients: Sequence[Mapping[str, object]],
    key_id: str,
    blocked: str,
) -> None:
    """Stores where a model comes from; its round has to be stored already."""
    await connection.execute(
        """
        insert into aegis.model (model_sha256, run_id, round, parent_sha256, size_bytes,
                                 created_at, code_version, ingredients, key_id, blocked)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            model_sha256,
            run_id,
            round,
            parent_sha256,
            size_bytes,
            created_at,
            code_version,
            Jsonb(list(ingredients)),
            key_id,
            blocked,
        ),
    )


_MODEL = """
    select m.model_sha256, m.run_id, m.round, m.parent_sha256, m.size_bytes, m.created_at,
           m.code_version, m.ingredients, m.key_id, r.plan, r.actor, r.policy_revision, r.rule_id,
           q.accuracy, q.loss, q.epsilon, m.blocked, m.released_by, m.release_reason
    from aegis.model m
    join aegis.run r using (run_id)
    join aegis.run_round q using (run_id, round)
"""


async def digests_between(
    connection: Connection, low: bytes, high: bytes, *, run_id: str, limit: int
) -> list[bytes]:
    """Returns different models whose digests are in a range, of one run if it is named."""
    cursor = await connection.execute(
        """
        select distinct model_sha256 from aegis.model
        where model_sha256 between %(low)s and %(high)s
          and (%(run_id)s = '' or run_id = %(run_id)s)
        order by model_sha256 limit %(limit)s
        """,
        {"low": low, "high": high, "run_id": run_id, "limit": limit},
    )
    return [bytes(digest) for (digest,) in await cursor.fetchall()]


async def models_of_digest(
    connection: Connection, model_sha256: bytes, *, run_id: str, limit: int
) -> list[StoredModel]:
    """Returns every round that ended with these very bytes, the newest first."""
    async with connection.cursor(row_factory=class_row(StoredModel)) as cursor:
        await cursor.execute(
            _MODEL
            + """
            where m.model_sha256 = %(digest)s and (%(run_id)s = '' or m.run_id = %(run_id)s)
            order by m.created_at desc, m.run_id desc, m.round desc limit %(limit)s
            """,
            {"digest": model_sha256, "run_id": run_id, "limit": limit},
        )
        return await cursor.fetchall()


async def models_before(
    connection: Connection, *, run_id: str, before: tuple[str, str, int] | None, limit: int
) -> list[StoredModel]:
    """Returns models, newest first, behind a position: time in ISO, run and round."""
    at, of, number = before or ("infinity", "", 0)
    async with connection.cursor(row_factory=class_row(StoredModel)) as cursor:
        await cursor.execute(
            _MODEL
            + """
            where (m.created_at, m.run_id, m.round)
                < (%(at)s::timestamptz, %(of)s::text, %(number)s::int)
              and (%(run_id)s = '' or m.run_id = %(run_id)s)
            order by m.created_at desc, m.run_id desc, m.round desc limit %(limit)s
            """,
            {"at": at, "of": of, "number": number, "run_id": run_id, "limit": limit},
        )
        return await cursor.fetchall()


async def models_up_to(
    connection: Connection, run_id: str, number: int, *, limit: int
) -> list[StoredModel]:
    """Returns the models of a run from a round back to its first, newest first."""
    async with connection.cursor(row_factory=class_row(StoredModel)) as cursor:
        await cursor.execute(
            _MODEL + "where m.run_id = %s and m.round <= %s order by m.round desc limit %s",
            (run_id, number, limit),
        )
        return await cursor.fetchall()


async def blocked_round(connection: Connection, model_sha256: bytes) -> tuple[str, int] | None:
    """Returns run and round in which these very bytes were blocked and nobody released them."""
    cursor = await connection.execute(
        # The same bytes are as dangerous in whichever run they came about.
        """
        select run_id, round from aegis.model
        where model_sha256 = %s and blocked <> '' and released_by = ''
        order by created_at desc, run_id desc, round desc limit 1
        """,
        (model_sha256,),
    )
    row = await cursor.fetchone()
    return None if row is None else (str(row[0]), int(row[1]))


async def release(
    connection: Connection, model_sha256: bytes, *, run_id: str, by: str, reason: str, at: datetime
) -> list[tuple[str, int]]:
    """Releases these bytes wherever they are blocked, of one run if it is named.

    Returns run and round of each.
    """
    cursor = await connection.execute(
        """
        update aegis.model
        set released_by = %(by)s, release_reason = %(reason)s, released_at = %(at)s
        where model_sha256 = %(digest)s and blocked <> '' and released_by = ''
          and (%(run_id)s = '' or run_id = %(run_id)s)
        returning run_id, round
        """,
        {"digest": model_sha256, "run_id": run_id, "by": by, "reason": reason, "at": at},
    )
    return sorted((str(run), int(number)) for run, number in await cursor.fetchall())
