"""SQL of the review's memory."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Mapping
from datetime import datetime

from psycopg.types.json import Jsonb

from aegis.serving.database import Connection
from aegis_server.review.case import Judgement, Past, Ruling, Verdict
from aegis_server.review.detection import Recorded
from aegis_server.review.findings import Severity
from aegis_server.review.memory.likeness import alike
from aegis_server.review.store import RoundKey

# Of each participant in a run.
_ROUNDS_MAX = 20
_RECORDED_MAX = 20_000


async def remember(
    connection: Connection, key: RoundKey, *, dataset: str, ruling: Ruling, now: datetime
) -> list[str]:
    """Keeps how a round was judged, in the transaction that writes its verdicts.

    Returns whose updates they were. Features that are no finite numbers are left out: JSON has
    none.
    """
    senders = await _senders(connection, key)
    names = [senders[each.update_id][0] for each in ruling.judgements]
    likes = await asyncio.to_thread(alike, [each.sketch for each in ruling.judgements])
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            insert into aegis.review_memory
                (update_id, run_id, round, attempt, participant, enrolled, dataset, verdict, score,
                 features, sketch, alike, against, looks_like, created_at)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (
                    *(each.update_id, key.run_id, key.round, key.attempt),
                    *(*senders[each.update_id], dataset),
                    *(each.verdict.value, each.score, _finite(each.features), each.sketch),
                    *([names[other] for other in others], _against(each), _looks_like(each), now),
                )
                for each, others in zip(ruling.judgements, likes, strict=True)
            ],
        )
    return names


async def past_of(
    connection: Connection, run_id: str, participants: Collection[str], *, before: int
) -> dict[str, tuple[Past, ...]]:
    """Returns what each participant sent in the run's rounds below `before`, oldest first.

    The last 20 rounds; of a round that was tried again, its last try. The round that is being
    judged is no past, even when it was tried before: from the same model and rows a site sends
    the same again, and that is no replay.
    """
    cursor = await connection.execute(
        # From each participant's newest round back, so that a long run costs as much as a short.
        """
        select p.name, m.round, m.verdict, m.score, m.features, m.sketch
        from unnest(%s::text[]) as p (name) cross join lateral (
            select distinct on (round) round, verdict, score, features, sketch
            from aegis.review_memory
            where run_id = %s and participant = p.name and round < %s
            order by round desc, attempt desc limit %s
        ) m
        order by p.name, m.round
        """,
        (sorted(participants), run_id, before, _ROUNDS_MAX),
    )
    found: dict[str, list[Past]] = {name: [] for name in participants}
    for name, number, verdict, score, features, sketch in await cursor.fetchall():
        found[name].append(Past(number, Verdict(verdict), score, features, bytes(sketch)))
    return {name: tuple(past) for name, past in found.items()}


async def recorded(connection: Connection, dataset: str) -> list[Recorded]:
    """Returns what stands as ACCEPTED of a data set, oldest first, at most the last 20,000.

    As it stands: what a person accepted counts, what a person rejected does not. Neither does what
    a deadline accepted, because nobody has looked, nor what those sent who are, or are to be, in
    quarantine: who is suspected must not teach what is ordinary. Of a round that was tried again,
    its last try.
    """
    cursor = await connection.execute(
        """
        select run_id, round, participant, features from (
            select m.run_id, m.round, m.participant, m.features, m.created_at
            from aegis.review_memory m join aegis.review_update u using (update_id)
            where m.dataset = %s and u.verdict = 'accepted'
              and coalesce((
                  select o.by_whom from aegis.review_override o
                  where o.update_id = m.update_id and o.effective order by o.seq desc limit 1
              ), 'examiners') <> ''
              and not exists (
                  select from aegis.review_memory later
                  where later.run_id = m.run_id and later.participant = m.participant
                    and later.round = m.round and later.attempt > m.attempt)
              and not exists (
                  select from aegis.review_quarantine q
                  where q.participant = m.participant and q.state in ('proposed', 'in_force'))
            order by m.created_at desc limit %s
        ) newest
        order by created_at, run_id, round, participant
        """,
        (dataset, _RECORDED_MAX),
    )
    return [Recorded(*row) for row in await cursor.fetchall()]


def _finite(features: Mapping[str, float]) -> Jsonb:
    return Jsonb({name: value for name, value in features.items() if math.isfinite(value)})


def _against(judgement: Judgement) -> list[str]:
    """Returns the examiners that had something against an update."""
    found = {each.examiner for each in judgement.findings if each.severity is not Severity.INFO}
    return sorted(found)


def _looks_like(judgement: Judgement) -> str:
    """Returns the kind of attack the strongest of its findings that names one points to."""
    return next((each.text for each in judgement.findings if each.measure == "looks_like"), "")


async def _senders(connection: Connection, key: RoundKey) -> dict[str, tuple[str, bool]]:
    """Returns whose each update of a round is, and whether that one has enrolled."""
    cursor = await connection.execute(
        """
        select update_id, participant, enrolled from aegis.review_update
        where run_id = %s and round = %s and attempt = %s
        """,
        (key.run_id, key.round, key.attempt),
    )
    return {update_id: (name, enrolled) for update_id, name, enrolled in await cursor.fetchall()}
