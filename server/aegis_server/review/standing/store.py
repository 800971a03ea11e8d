"""SQL of standings and quarantines."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from aegis.serving.database import Connection

# All that are older weigh together less than one of two hundred: 0.9 to the fiftieth is 0.005.
HISTORY = 50
# Those of late, and what they are compared with.
_FEATURES = 20


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """A judged update: the verdict that stands, who decided it, and what the examiners saw.

    `features` are there for the last 20 only.
    """

    participant: str
    update_id: str
    run_id: str
    round: int
    attempt: int
    verdict: str
    score: float
    decider: str
    alike: Sequence[str]
    features: Mapping[str, float] | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StandingRow:
    """A row of aegis.review_standing."""

    participant: str
    reputation: float
    judged: int
    accepted: int
    rejected: int
    held: int
    drift: float
    colludes_with: Sequence[str]
    last_at: datetime


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """A row of aegis.review_quarantine."""

    seq: int
    quarantine_id: str
    participant: str
    state: str
    cause: str
    reason: str
    update_ids: Sequence[str]
    proposed_at: datetime
    decided_by: str
    decision_reason: str
    decided_at: datetime | None


_STANDING = ", ".join(StandingRow.__slots__)
_QUARANTINE = ", ".join(QuarantineRow.__slots__)


async def enrolled(connection: Connection, names: Collection[str]) -> list[str]:
    """Returns those under whose name something was judged that somebody enrolled had sent."""
    cursor = await connection.execute(
        """
        select name from unnest(%s::text[]) as name where exists (
            select from aegis.review_memory where participant = name and enrolled)
        """,
        (sorted(names),),
    )
    return [str(row[0]) for row in await cursor.fetchall()]


async def lock(connection: Connection, participants: Collection[str], now: datetime) -> None:
    """Makes sure that each has a row, and keeps others from reckoning it until the end.

    In order of names, so that two rounds that are judged at once wait and never for each other.
    """
    names = sorted(participants)
    await connection.execute(
        """
        insert into aegis.review_standing
            (participant, reputation, judged, accepted, rejected, held, drift, colludes_with,
             last_at)
        select name, 0.5, 0, 0, 0, 0, 0, '{}', %s from unnest(%s::text[]) name order by name
        on conflict do nothing
        """,
        (now, names),
    )
    await connection.execute(
        """
        select from aegis.review_standing where participant = any(%s)
        order by participant for update
        """,
        (names,),
    )


async def histories(
    connection: Connection, participants: Collection[str], *, limit: int = HISTORY
) -> dict[str, list[HistoryRow]]:
    """Returns the last judged updates of each, oldest first."""
    async with connection.cursor(row_factory=class_row(HistoryRow)) as cursor:
        await cursor.execute(
            """
            select m.participant, update_id, m.run_id, m.round, m.attempt,
                   coalesce(o.to_verdict, m.verdict) as verdict, m.score,
                   case when o.by_whom is null then 'examiners' when o.by_whom = '' then 'deadline'
                        else 'person' end as decider,
                   m.alike, case when m.nth <= %s then m.features end as features, m.created_at
            from unnest(%s::text[]) as p (name) cross join lateral (
                select participant, update_id, run_id, round, attempt, verdict, score, alike,
                       features, created_at,
                       row_number() over (order by created_at desc, update_id desc) as nth
                from aegis.review_memory where participant = p.name and enrolled
                order by created_at desc, update_id desc limit %s
            ) m left join (
                select distinct on (update_id) update_id, to_verdict, by_whom
                from aegis.review_override where effective order by update_id, seq desc
            ) o using (update_id)
            order by m.participant, m.nth desc
            """,
            (_FEATURES, sorted(participants), limit),
        )
        found: dict[str, list[HistoryRow]] = {name: [] for name in participants}
        for row in await cursor.fetchall():
            found[row.participant].append(row)
    return found


async def counts(
    connection: Connection, participants: Collection[str]
) -> dict[str, dict[str, int]]:
    """Returns how many updates of each stand with which verdict."""
    cursor = await connection.execute(
        """
        select participant, verdict, count(*) from aegis.review_update
        where participant = any(%s) and enrolled and verdict <> 'pending'
        group by participant, verdict
        """,
        (list(participants),),
    )
    found: dict[str, dict[str, int]] = {name: {} for name in participants}
    for name, verdict, number in await cursor.fetchall():
        found[name][verdict] = number
    return found


async def write(connection: Connection, standing: StandingRow) -> None:
    """Stores a standing whose row is locked."""
    await connection.execute(
        """
        update aegis.review_standing
        set reputation = %s, judged = %s, accepted = %s, rejected = %s, held = %s, drift = %s,
            colludes_with = %s, last_at = %s
        where participant = %s
        """,
        (
            *(standing.reputation, standing.judged, standing.accepted, standing.rejected),
            *(standing.held, standing.drift, list(standing.colludes_with), standing.last_at),
            standing.participant,
        ),
    )


async def find(connection: Connection, participant: str) -> StandingRow | None:
    """Returns one standing."""
    async with connection.cursor(row_factory=class_row(StandingRow)) as cursor:
        await cursor.execute(
            f"select {_STANDING} from aegis.review_standing where participant = %s",  # noqa: S608
            (participant,),
        )
        return await cursor.fetchone()


async def page(
    connection: Connection, *, after: tuple[float, str] | None, limit: int
) -> list[StandingRow]:
    """Returns the least trusted behind a place in that order."""
    async with connection.cursor(row_factory=class_row(StandingRow)) as cursor:
        await cursor.execute(
            f"""
            select {_STANDING} from aegis.review_standing
            where (reputation, participant) > (%s, %s)
            order by reputation, participant limit %s
            """,  # noqa: S608
            (*(after or (-1.0, "")), limit),
        )
        return await cursor.fetchall()


async def reputations(connection: Connection) -> list[float]:
    """Returns everybody's reputation."""
    cursor = await connection.execute("select reputation from aegis.review_standing")
    return [float(row[0]) for row in await cursor.fetchall()]


async def last_decisions(
    connection: Connection, participants: Collection[str]
) -> dict[str, datetime]:
    """Returns when a quarantine of each was last refused or lifted, of those that had one."""
    cursor = await connection.execute(
        """
        select participant, max(decided_at) from aegis.review_quarantine
        where participant = any(%s) and state in ('refused', 'lifted') group by participant
        """,
        (list(participants),),
    )
    return {str(name): at for name, at in await cursor.fetchall()}


async def insert_quarantine(
    connection: Connection,
    *,
    quarantine_id: str,
    participant: str,
    cause: str,
    reason: str,
    update_ids: Sequence[str],
    now: datetime,
) -> None:
    """Stores a proposal; the caller has locked the participant and knows that none is open."""
    await connection.execute(
        """
        insert into aegis.review_quarantine
            (quarantine_id, participant, cause, reason, update_ids, proposed_at)
        values (%s, %s, %s, %s, %s, %s)
        """,
        (quarantine_id, participant, cause, reason, list(update_ids), now),
    )


async def find_quarantine(
    connection: Connection, quarantine_id: str, *, lock: bool = False
) -> QuarantineRow | None:
    """Returns a quarantine; with `lock` nobody else decides it until the transaction ends."""
    async with connection.cursor(row_factory=class_row(QuarantineRow)) as cursor:
        await cursor.execute(
            f"""
            select {_QUARANTINE} from aegis.review_quarantine where quarantine_id = %s
            {"for update" if lock else ""}
            """,  # noqa: S608
            (quarantine_id,),
        )
        return await cursor.fetchone()


async def decide_quarantine(
    connection: Connection, quarantine_id: str, *, state: str, by: str, reason: str, now: datetime
) -> None:
    """Writes what somebody decided about a quarantine that is locked."""
    await connection.execute(
        """
        update aegis.review_quarantine
        set state = %s, decided_by = %s, decision_reason = %s, decided_at = %s
        where quarantine_id = %s
        """,
        (state, by, reason, now, quarantine_id),
    )


async def page_quarantines(
    connection: Connection, *, participant: str, before: int | None, limit: int
) -> list[QuarantineRow]:
    """Returns the newest quarantines below `before`, of one participant or (empty) of all."""
    async with connection.cursor(row_factory=class_row(QuarantineRow)) as cursor:
        await cursor.execute(
            f"""
            select {_QUARANTINE} from aegis.review_quarantine
            where (%(participant)s = '' or participant = %(participant)s)
              and (%(before)s::bigint is null or seq < %(before)s)
            order by seq desc limit %(limit)s
            """,  # noqa: S608
            {"participant": participant, "before": before, "limit": limit},
        )
        return await cursor.fetchall()


async def open_quarantines(
    connection: Connection, participants: Collection[str]
) -> dict[str, QuarantineRow]:
    """Returns what is proposed or in force, by participant."""
    async with connection.cursor(row_factory=class_row(QuarantineRow)) as cursor:
        await cursor.execute(
            f"""
            select {_QUARANTINE} from aegis.review_quarantine
            where participant = any(%s) and state in ('proposed', 'in_force')
            """,  # noqa: S608
            (list(participants),),
        )
        return {row.participant: row for row in await cursor.fetchall()}


async def in_force(connection: Connection) -> set[str]:
    """Returns the participants that are left out of rounds."""
    cursor = await connection.execute(
        "select participant from aegis.review_quarantine where state = 'in_force'"
    )
    return {str(row[0]) for row in await cursor.fetchall()}


async def pending(connection: Connection) -> tuple[int, int]:
    """Returns how many proposals nobody has decided, and how many updates are held."""
    cursor = await connection.execute(
        """
        select (select count(*) from aegis.review_quarantine where state = 'proposed'),
               (select count(*) from aegis.review_update where verdict = 'held')
        """
    )
    found = await cursor.fetchone()
    assert found is not None  # noqa: S101  # one row, always
    return int(found[0]), int(found[1])
