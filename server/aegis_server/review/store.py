"""SQL of the review room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aegis.serving.database import Connection


@dataclass(frozen=True, slots=True)
class RoundKey:
    """Which round: `attempt` counts its tries, because a repeated round has other updates."""

    run_id: str
    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class RoundRow:
    """A row of aegis.review_round."""

    closed_at: datetime | None
    judged_at: datetime | None


@dataclass(frozen=True, slots=True)
class UpdateRow:
    """A row of aegis.review_update."""

    seq: int
    update_id: str
    run_id: str
    round: int
    attempt: int
    participant: str
    sha256: bytes
    size_bytes: int
    created_at: datetime
    verdict: str
    score: float
    findings: Sequence[Mapping[str, object]]
    reviewed_at: datetime | None


_COLUMNS = ", ".join(UpdateRow.__slots__)


async def lock_round(connection: Connection, key: RoundKey) -> RoundRow | None:
    """Returns the round and keeps others from changing it until the transaction ends."""
    async with connection.cursor(row_factory=class_row(RoundRow)) as cursor:
        await cursor.execute(
            """
            select closed_at, judged_at from aegis.review_round
            where run_id = %s and round = %s and attempt = %s for update
            """,
            (key.run_id, key.round, key.attempt),
        )
        return await cursor.fetchone()


async def open_round(connection: Connection, key: RoundKey) -> None:
    """Makes sure that the round's row exists."""
    await connection.execute(
        """
        insert into aegis.review_round (run_id, round, attempt) values (%s, %s, %s)
        on conflict do nothing
        """,
        (key.run_id, key.round, key.attempt),
    )


async def close_round(connection: Connection, key: RoundKey, now: datetime) -> None:
    """From now on the round takes no update; closing again keeps the first time."""
    await connection.execute(
        """
        update aegis.review_round set closed_at = coalesce(closed_at, %s)
        where run_id = %s and round = %s and attempt = %s
        """,
        (now, key.run_id, key.round, key.attempt),
    )


async def mark_judged(connection: Connection, key: RoundKey, now: datetime) -> None:
    """The round's verdicts stand."""
    await connection.execute(
        """
        update aegis.review_round set judged_at = %s
        where run_id = %s and round = %s and attempt = %s
        """,
        (now, key.run_id, key.round, key.attempt),
    )


async def insert(
    connection: Connection,
    key: RoundKey,
    *,
    update_id: str,
    participant: str,
    sha256: bytes,
    size_bytes: int,
    now: datetime,
) -> None:
    """Stores an update as pending; the caller holds the round's lock and knows it is new."""
    await connection.execute(
        """
        insert into aegis.review_update
            (update_id, run_id, round, attempt, participant, sha256, size_bytes, created_at)
        values (%s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            *(update_id, key.run_id, key.round, key.attempt),
            *(participant, sha256, size_bytes, now),
        ),
    )


async def of_participant(
    connection: Connection, key: RoundKey, participant: str
) -> UpdateRow | None:
    """Returns a participant's update in a round."""
    async with connection.cursor(row_factory=class_row(UpdateRow)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.review_update
            where run_id = %s and round = %s and attempt = %s and participant = %s
            """,  # noqa: S608
            (key.run_id, key.round, key.attempt, participant),
        )
        return await cursor.fetchone()


async def of_round(connection: Connection, key: RoundKey) -> list[UpdateRow]:
    """Returns a round's updates in order of their participants."""
    async with connection.cursor(row_factory=class_row(UpdateRow)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.review_update
            where run_id = %s and round = %s and attempt = %s order by participant
            """,  # noqa: S608
            (key.run_id, key.round, key.attempt),
        )
        return await cursor.fetchall()


async def find(connection: Connection, update_id: str) -> UpdateRow | None:
    """Returns one update."""
    async with connection.cursor(row_factory=class_row(UpdateRow)) as cursor:
        await cursor.execute(
            f"select {_COLUMNS} from aegis.review_update where update_id = %s",  # noqa: S608
            (update_id,),
        )
        return await cursor.fetchone()


async def page(
    connection: Connection, *, run_id: str, before: int | None, limit: int
) -> list[UpdateRow]:
    """Returns the newest updates below `before`, of one run or (empty) of all."""
    async with connection.cursor(row_factory=class_row(UpdateRow)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.review_update
            where (%(run_id)s = '' or run_id = %(run_id)s)
              and (%(before)s::bigint is null or seq < %(before)s)
            order by seq desc limit %(limit)s
            """,  # noqa: S608
            {"run_id": run_id, "before": before, "limit": limit},
        )
        return await cursor.fetchall()


async def write_verdict(
    connection: Connection,
    update_id: str,
    *,
    verdict: str,
    score: float,
    findings: Sequence[Mapping[str, object]],
    now: datetime,
) -> None:
    """Writes what was decided about a pending update."""
    await connection.execute(
        """
        update aegis.review_update
        set verdict = %s, score = %s, findings = %s, reviewed_at = %s
        where update_id = %s and verdict = 'pending'
        """,
        (verdict, score, Jsonb(list(findings)), now, update_id),
    )
