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

    run_id: str
    round: int
    attempt: int
    closed_at: datetime | None
    judged_at: datetime | None
    asked_at: datetime | None
    asked_by: str
    policy_revision: int
    rule_id: str
    worker: str
    examining_at: datetime | None
    worker_until: datetime | None
    fallback: bool
    fallback_participants: Sequence[str]
    reason: str
    warming_up: bool

    @property
    def key(self) -> RoundKey:
        """Which round it is."""
        return RoundKey(self.run_id, self.round, self.attempt)


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
    false_positive_rate: float
    would_change: Sequence[str]
    hold_until: datetime | None
    hold_default: str | None
    detector: str
    golden_sha256: bytes
    evidence_sha256: bytes
    sent_by: str


_COLUMNS = ", ".join(UpdateRow.__slots__)
_ROUND_COLUMNS = ", ".join(RoundRow.__slots__)


async def lock_round(connection: Connection, key: RoundKey) -> RoundRow | None:
    """Returns the round and keeps others from changing it until the transaction ends."""
    async with connection.cursor(row_factory=class_row(RoundRow)) as cursor:
        await cursor.execute(
            f"""
            select {_ROUND_COLUMNS} from aegis.review_round
            where run_id = %s and round = %s and attempt = %s for update
            """,  # noqa: S608
            (key.run_id, key.round, key.attempt),
        )
        return await cursor.fetchone()


async def round_of(connection: Connection, key: RoundKey) -> RoundRow | None:
    """Returns the round as it stands."""
    async with connection.cursor(row_factory=class_row(RoundRow)) as cursor:
        await cursor.execute(
            f"""
            select {_ROUND_COLUMNS} from aegis.review_round
            where run_id = %s and round = %s and attempt = %s
            """,  # noqa: S608
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


async def close_round(
    connection: Connection,
    key: RoundKey,
    *,
    by: str,
    policy_revision: int,
    rule_id: str,
    now: datetime,
) -> None:
    """From now on the round takes no update and waits to be examined.

    Closing again keeps the first time and who asked first.
    """
    await connection.execute(
        """
        update aegis.review_round
        set closed_at = coalesce(closed_at, %(now)s), asked_at = %(now)s, asked_by = %(by)s,
            policy_revision = %(revision)s, rule_id = %(rule)s
        where run_id = %(run)s and round = %(round)s and attempt = %(attempt)s
          and asked_at is null
        """,
        {
            "now": now,
            "by": by,
            "revision": policy_revision,
            "rule": rule_id,
            "run": key.run_id,
            "round": key.round,
            "attempt": key.attempt,
        },
    )


async def adopt(connection: Connection, key: RoundKey) -> int:
    """Moves updates that wait for an earlier try of the round to this one; returns how many.

    Every try starts from the same model. Who has an update in this try keeps that one, and of
    several earlier ones the newest counts; what was closed or judged stays where it is.
    """
    cursor = await connection.execute(
        """
        with waiting as (
            select distinct on (u.participant) u.update_id
            from aegis.review_update u join aegis.review_round r using (run_id, round, attempt)
            where u.run_id = %(run)s and u.round = %(round)s and u.attempt < %(attempt)s
              and u.verdict = 'pending' and r.closed_at is null
              and not exists (
                  select from aegis.review_update mine
                  where mine.run_id = u.run_id and mine.round = u.round
                    and mine.attempt = %(attempt)s and mine.participant = u.participant)
            order by u.participant, u.attempt desc
        )
        update aegis.review_update u set attempt = %(attempt)s
        from waiting where u.update_id = waiting.update_id
        """,
        {"run": key.run_id, "round": key.round, "attempt": key.attempt},
    )
    return cursor.rowcount


async def mark_judged(
    connection: Connection,
    key: RoundKey,
    *,
    fallback: bool,
    fallback_participants: Sequence[str],
    reason: str,
    warming_up: bool,
    now: datetime,
) -> None:
    """The round's verdicts stand."""
    await connection.execute(
        """
        update aegis.review_round
        set judged_at = %s, fallback = %s, fallback_participants = %s, reason = %s,
            warming_up = %s
        where run_id = %s and round = %s and attempt = %s
        """,
        (
            *(now, fallback, list(fallback_participants), reason, warming_up),
            *(key.run_id, key.round, key.attempt),
        ),
    )


async def insert(
    connection: Connection,
    key: RoundKey,
    *,
    update_id: str,
    participant: str,
    enrolled: bool,
    sha256: bytes,
    size_bytes: int,
    by: str,
    now: datetime,
) -> None:
    """Stores an update as pending; the caller holds the round's lock and knows it is new."""
    await connection.execute(
        """
        insert into aegis.review_update
            (update_id, run_id, round, attempt, participant, enrolled, sha256, size_bytes,
             sent_by, created_at)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            *(update_id, key.run_id, key.round, key.attempt),
            *(participant, enrolled, sha256, size_bytes, by, now),
        ),
    )


async def of_participant(
    connection: Connection, key: RoundKey, participant: str, sha256: bytes
) -> UpdateRow | None:
    """Returns a participant's update in a round, or the same bytes in a later try of it."""
    async with connection.cursor(row_factory=class_row(UpdateRow)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.review_update
            where run_id = %s and round = %s and participant = %s
              and (attempt = %s or attempt > %s and sha256 = %s)
            order by attempt limit 1
            """,  # noqa: S608
            (key.run_id, key.round, participant, key.attempt, key.attempt, sha256),
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


async def several(connection: Connection, update_ids: Sequence[str]) -> list[UpdateRow]:
    """Returns those of the updates that are there."""
    async with connection.cursor(row_factory=class_row(UpdateRow)) as cursor:
        await cursor.execute(
            f"select {_COLUMNS} from aegis.review_update where update_id = any(%s)",  # noqa: S608
            (list(update_ids),),
        )
        return await cursor.fetchall()


async def page(
    connection: Connection,
    *,
    run_id: str,
    participant: str,
    verdict: str,
    before: int | None,
    limit: int,
) -> list[UpdateRow]:
    """Returns the newest updates below `before`; an empty filter means any."""
    async with connection.cursor(row_factory=class_row(UpdateRow)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.review_update
            where (%(run_id)s = '' or run_id = %(run_id)s)
              and (%(participant)s = '' or participant = %(participant)s)
              and (%(verdict)s = '' or verdict = %(verdict)s)
              and (%(before)s::bigint is null or seq < %(before)s)
            order by seq desc limit %(limit)s
            """,  # noqa: S608
            {
                "run_id": run_id,
                "participant": participant,
                "verdict": verdict,
                "before": before,
                "limit": limit,
            },
        )
        return await cursor.fetchall()


async def write_verdict(
    connection: Connection,
    update_id: str,
    *,
    verdict: str,
    score: float,
    findings: Sequence[Mapping[str, object]],
    false_positive_rate: float,
    would_change: Sequence[str],
    hold_until: datetime | None,
    hold_default: str | None,
    detector: str,
    golden_sha256: bytes,
    evidence_sha256: bytes,
    now: datetime,
) -> None:
    """Writes what was decided about a pending update."""
    await connection.execute(
        """
        update aegis.review_update
        set verdict = %s, score = %s, findings = %s, reviewed_at = %s, false_positive_rate = %s,
            would_change = %s, hold_until = %s, hold_default = %s, detector = %s,
            golden_sha256 = %s, evidence_sha256 = %s
        where update_id = %s and verdict = 'pending'
        """,
        (
            *(verdict, score, Jsonb(list(findings)), now, false_positive_rate),
            *(Jsonb(list(would_change)), hold_until, hold_default, detector),
            *(golden_sha256, evidence_sha256, update_id),
        ),
    )
