"""SQL of the review's analytics.

Verdicts are read from `aegis.review_memory` by its covering index, because the rows beside it carry
features and sketches, and what persons decided from the few rows of `aegis.review_override`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from aegis.serving.database import Connection

QUARANTINE, MODEL = "quarantine", "blocked-model"
_UPDATES_MAX = 4000


@dataclass(frozen=True, slots=True)
class Scope:
    """What is counted: judged in [start, end), in one run or (empty) in all."""

    start: datetime
    end: datetime
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class CountRow:
    """Updates under one heading: `kind` is day, participant, attack or examiner."""

    kind: str
    key: str
    judged: int
    accepted: int
    rejected: int
    held: int
    overridden: int


@dataclass(frozen=True, slots=True)
class ThreatRow:
    """What was found against updates of a round that look like one attack, or something said.

    `text` is why a participant is proposed for QUARANTINE, or a model may not leave (MODEL).
    """

    kind: str
    at: datetime
    participants: Sequence[str]
    run_id: str
    round: int
    score: float
    rejected: int
    held: int
    text: str


# By how the verdict stands; who decided it is a person, or nobody.
_JUDGED = """
    select m.*, coalesce(o.to_verdict, m.verdict) as stands,
           coalesce(o.by_whom, '') <> '' as overridden
    from aegis.review_memory m left join (
        select distinct on (update_id) update_id, to_verdict, by_whom
        from aegis.review_override where effective order by update_id, seq desc
    ) o using (update_id)
    where m.created_at >= %(start)s and m.created_at < %(end)s
      and (%(run_id)s = '' or m.run_id = %(run_id)s)
"""
_NUMBERS = """
    count(*) as judged, count(*) filter (where stands = 'accepted') as accepted,
    count(*) filter (where stands = 'rejected') as rejected,
    count(*) filter (where stands = 'held') as held,
    count(*) filter (where overridden) as overridden
"""


async def counts(connection: Connection, scope: Scope) -> list[CountRow]:
    """Returns the counts of every heading that has any."""
    async with connection.cursor(row_factory=class_row(CountRow)) as cursor:
        await cursor.execute(
            # One pass for all headings that an update has one of; days as dates, which hash.
            f"""
            select case when day is not null then 'day' when participant is not null
                        then 'participant' else 'attack' end as kind,
                   coalesce(day::text, participant, looks_like) as key,
                   judged, accepted, rejected, held, overridden
            from (
                select created_at::date as day, participant, looks_like, {_NUMBERS}
                from ({_JUDGED}) judged
                group by grouping sets ((created_at::date), (participant), (looks_like))
            ) headed
            union all
            select 'examiner', examiner, {_NUMBERS}
            from ({_JUDGED} and m.against <> '{{}}') judged, unnest(against) as examiner
            group by examiner
            """,  # noqa: S608
            {"start": scope.start, "end": scope.end, "run_id": scope.run_id},
        )
        return await cursor.fetchall()


async def seconds(connection: Connection, scope: Scope) -> tuple[float, float]:
    """Returns how long half, and 99 of 100, of the rounds took from close to verdicts at most."""
    cursor = await connection.execute(
        """
        select percentile_cont(array[0.5, 0.99]) within group
                   (order by extract(epoch from judged_at - closed_at)::float8)
        from aegis.review_round
        where judged_at >= %(start)s and judged_at < %(end)s
          and (%(run_id)s = '' or run_id = %(run_id)s)
        """,
        {"start": scope.start, "end": scope.end, "run_id": scope.run_id},
    )
    found = await cursor.fetchone()
    p50, p99 = (found[0] if found is not None else None) or (0.0, 0.0)
    return float(p50), float(p99)


async def threats(connection: Connection, scope: Scope, *, limit: int) -> list[ThreatRow]:
    """Returns what was rejected or held, by round and kind, proposals and blocked models.

    Newest first.

    Of the last few thousand updates that were not accepted.
    """
    async with connection.cursor(row_factory=class_row(ThreatRow)) as cursor:
        await cursor.execute(
            f"""
            with found as (
                select max(created_at) as at, run_id, round, attempt,
                       coalesce(nullif(looks_like, ''), 'unknown') as kind,
                       array_agg(participant order by participant) as participants,
                       max(score) as score,
                       count(*) filter (where stands = 'rejected') as rejected,
                       count(*) filter (where stands = 'held') as held
                from (
                    ({_JUDGED} and m.verdict <> 'accepted'
                     order by m.created_at desc limit %(updates)s)
                    union all
                    -- What a person rejected though the examiners did not.
                    ({_JUDGED} and m.verdict = 'accepted' and o.to_verdict = 'rejected'
                     order by m.created_at desc limit %(updates)s)
                ) judged
                where stands <> 'accepted'
                group by run_id, round, attempt, kind
                order by at desc limit %(limit)s
            )
            select kind, at, participants, run_id, round, score, rejected, held, '' as text
            from found
            union all
            (select %(quarantine)s, proposed_at, array[participant], '', 0, 0, 0, 0, reason
             from aegis.review_quarantine
             where proposed_at >= %(start)s and proposed_at < %(end)s and %(run_id)s = ''
             order by proposed_at desc limit %(limit)s)
            union all
            (select %(model)s, created_at, array[]::text[], run_id, round, 0, 0, 0, blocked
             from aegis.model
             where blocked <> '' and created_at >= %(start)s and created_at < %(end)s
               and (%(run_id)s = '' or run_id = %(run_id)s)
             order by created_at desc limit %(limit)s)
            order by at desc, kind, participants limit %(limit)s
            """,  # noqa: S608
            {
                "start": scope.start,
                "end": scope.end,
                "run_id": scope.run_id,
                "limit": limit,
                "updates": _UPDATES_MAX,
                "quarantine": QUARANTINE,
                "model": MODEL,
            },
        )
        return await cursor.fetchall()
