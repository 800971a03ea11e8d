"""SQL of the queue: rounds on their way, who examines them, and the tables of procrastinate, which
wakes workers. A round on its way is a row of aegis.review_round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from aegis.serving.database import Connection
from aegis_server.review.store import RoundKey

_LOCK = 0x61717565  # "aque"


async def claim(connection: Connection, key: RoundKey, *, worker: str, seconds: float) -> bool:
    """Takes a round to examine it; False when it is judged, or another worker has it and lives.

    The clock is the database's, which all workers share.
    """
    cursor = await connection.execute(
        """
        update aegis.review_round
        set worker = %s, examining_at = now(), worker_until = now() + make_interval(secs => %s)
        where run_id = %s and round = %s and attempt = %s
          and asked_at is not null and judged_at is null
          and (worker = '' or worker_until < now())
        """,
        (worker, seconds, key.run_id, key.round, key.attempt),
    )
    return cursor.rowcount == 1


async def keep(connection: Connection, key: RoundKey, *, worker: str, seconds: float) -> bool:
    """Says that the worker that has the round still lives; False when another one took it."""
    cursor = await connection.execute(
        """
        update aegis.review_round set worker_until = now() + make_interval(secs => %s)
        where run_id = %s and round = %s and attempt = %s and worker = %s and judged_at is null
        """,
        (seconds, key.run_id, key.round, key.attempt, worker),
    )
    return cursor.rowcount == 1


async def let_go(connection: Connection, key: RoundKey, *, worker: str) -> None:
    """Gives a round back that could not be examined."""
    await connection.execute(
        """
        update aegis.review_round set worker = '', examining_at = null, worker_until = null
        where run_id = %s and round = %s and attempt = %s and worker = %s and judged_at is null
        """,
        (key.run_id, key.round, key.attempt, worker),
    )


async def state_of(connection: Connection, key: RoundKey) -> str:
    """Returns waiting, examining or judged; judged also of what nobody asked for."""
    cursor = await connection.execute(
        """
        select case when worker_until > now() then 'examining' else 'waiting' end
        from aegis.review_round
        where run_id = %s and round = %s and attempt = %s
          and asked_at is not null and judged_at is null
        """,
        (key.run_id, key.round, key.attempt),
    )
    found = await cursor.fetchone()
    return str(found[0]) if found else "judged"


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A round on its way: `state` is waiting, examining or held."""

    run_id: str
    round: int
    attempt: int
    updates: int
    state: str
    since: datetime
    worker: str


async def rounds(connection: Connection, *, limit: int = 1000) -> list[QueueRow]:
    """Returns rounds that are asked for and not judged, or judged and held, oldest first."""
    async with connection.cursor(row_factory=class_row(QueueRow)) as cursor:
        await cursor.execute(
            """
            select r.run_id, r.round, r.attempt, count(*)::int as updates, state, since,
                   case when state = 'examining' then worker else '' end as worker
            from (
                select run_id, round, attempt, worker,
                       case when worker_until > now() then 'examining' else 'waiting' end as state,
                       case when worker_until > now() then examining_at else asked_at end as since
                from aegis.review_round where asked_at is not null and judged_at is null
                union all
                select run_id, round, attempt, '', 'held', judged_at
                from aegis.review_round r where judged_at is not null and exists (
                    select from aegis.review_update u
                    where u.verdict = 'held' and u.run_id = r.run_id and u.round = r.round
                      and u.attempt = r.attempt)
            ) r join aegis.review_update u using (run_id, round, attempt)
            where state <> 'held' or u.verdict = 'held'
            group by r.run_id, r.round, r.attempt, state, since, worker
            order by since limit %s
            """,
            (limit,),
        )
        return await cursor.fetchall()


async def live_workers(connection: Connection) -> int:
    """Returns how many review workers gave a sign of life of late; procrastinate keeps count."""
    cursor = await connection.execute(
        """
        select count(*) from aegis.procrastinate_workers
        where last_heartbeat > now() - interval '30 seconds'
        """
    )
    found = await cursor.fetchone()
    return int(found[0]) if found else 0


async def lock(connection: Connection) -> None:
    """Keeps others from changing the queue's tables until the transaction ends."""
    await connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))


async def applied(connection: Connection) -> dict[str, str]:
    """Returns procrastinate's migrations the tables have, each with the release that brought it."""
    cursor = await connection.execute("select name, release from aegis.review_queue_migration")
    return {str(name): str(release) for name, release in await cursor.fetchall()}


async def apply(connection: Connection, text: str, names: Sequence[str], *, release: str) -> None:
    """Runs SQL of procrastinate in our schema, and writes down what the tables have with it."""
    await connection.execute("set local search_path to aegis")
    await connection.execute(text.encode())
    await connection.execute(
        """
        insert into aegis.review_queue_migration (name, release)
        select name, %s from unnest(%s::text[]) as name
        """,
        (release, list(names)),
    )
