"""SQL of the healing report: counts of actions by type, state and time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from aegis.serving.database import Connection
from aegis_server.execution.states import S


class Total(NamedTuple):
    """Actions of one type in one state; an empty verb is an action from before there were any."""

    verb: str
    state: int
    number: int


class Healed(NamedTuple):
    """How long it took from a request to VERIFIED; an empty verb is all."""

    verb: str
    p50: timedelta
    p95: timedelta


class Slice(NamedTuple):
    """Actions created in one slice of time, by state."""

    start: datetime
    state: int
    number: int


async def totals(connection: Connection, start: datetime, end: datetime) -> list[Total]:
    """Returns how many actions of a time are in which state."""
    cursor = await connection.execute(
        """
        select verb, state, count(*) from aegis.action
        where created_at >= %s and created_at < %s group by verb, state order by verb, state
        """,
        (start, end),
    )
    return [Total(*row) for row in await cursor.fetchall()]


async def times(connection: Connection, start: datetime, end: datetime) -> list[Healed]:
    """Returns percentiles of the time to heal, for each type and for all."""
    cursor = await connection.execute(
        """
        select case when grouping(verb) = 1 then '' else verb end,
            percentile_cont(0.5) within group (order by ended_at - created_at),
            percentile_cont(0.95) within group (order by ended_at - created_at)
        from aegis.action
        where created_at >= %s and created_at < %s and state = %s and ended_at is not null
            and verb <> ''
        group by grouping sets ((), (verb)) having count(*) > 0
        """,
        (start, end, S.STATE_VERIFIED),
    )
    return [Healed(*row) for row in await cursor.fetchall()]


async def slices(
    connection: Connection, start: datetime, end: datetime, width: timedelta
) -> list[Slice]:
    """Returns how many actions of each slice are in which state."""
    cursor = await connection.execute(
        """
        select date_bin(%s, created_at, %s) as slice, state, count(*) from aegis.action
        where created_at >= %s and created_at < %s group by slice, state order by slice, state
        """,
        (width, start, start, end),
    )
    return [Slice(*row) for row in await cursor.fetchall()]


async def refusals(connection: Connection, start: datetime, end: datetime) -> list[tuple[str, int]]:
    """Returns what refused how often, the most frequent first.

    Refusals that left no action, and actions that were denied, refused or failed for a reason.
    """
    cursor = await connection.execute(
        """
        select reason, count(*) as number from (
            select reason from aegis.action_refusal where at >= %(start)s and at < %(end)s
            union all
            select reason from aegis.action
            where created_at >= %(start)s and created_at < %(end)s and state = any(%(states)s)
                and reason <> '') as refused
        group by reason order by number desc, reason
        """,
        {
            "start": start,
            "end": end,
            "states": [S.STATE_DENIED, S.STATE_REFUSED, S.STATE_FAILED],
        },
    )
    return [(str(reason), int(number)) for reason, number in await cursor.fetchall()]
