"""SQL of who is there: a participant's newest stream is the one that counts."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from aegis.serving.database import Connection
from aegis_server.training.tasks.store import tell


class Standing(NamedTuple):
    """A participant as its stream has to know it; `state` is an aegis.v1.Participant.State."""

    node_id: int
    state: int
    # Empty when it has none.
    stream_id: str


async def standing_of(connection: Connection, participant: str) -> Standing | None:
    """Returns a participant's standing, or None when there is no such participant."""
    cursor = await connection.execute(
        """
        select p.node_id, p.state, coalesce(a.stream_id, '')
        from aegis.participant p left join aegis.attendance a on a.participant = p.name
        where p.name = %s
        """,
        (participant,),
    )
    row = await cursor.fetchone()
    return None if row is None else Standing(*row)


async def enter(
    connection: Connection,
    participant: str,
    *,
    stream_id: str,
    software: str,
    at: datetime,
    clock_offset_seconds: float,
) -> None:
    """Notes a new stream in the place of the one before, which hears of it."""
    await connection.execute(
        """
        insert into aegis.attendance (participant, stream_id, since, seen_at, clock_offset_seconds)
        values (%s, %s, %s, %s, %s)
        on conflict (participant) do update
        set stream_id = excluded.stream_id, since = excluded.since, seen_at = excluded.seen_at,
            clock_offset_seconds = excluded.clock_offset_seconds
        """,
        (participant, stream_id, at, at, clock_offset_seconds),
    )
    await connection.execute(
        "update aegis.participant set software = %s where name = %s and software <> %s",
        (software, participant, software),
    )
    await tell(connection, f"participant:{participant}")


async def see(
    connection: Connection,
    participant: str,
    *,
    stream_id: str,
    at: datetime,
    clock_offset_seconds: float,
) -> None:
    """Notes a sign of life."""
    await connection.execute(
        """
        update aegis.attendance set seen_at = %s, clock_offset_seconds = %s
        where participant = %s and stream_id = %s
        """,
        (at, clock_offset_seconds, participant, stream_id),
    )


async def leave(connection: Connection, participant: str, *, stream_id: str) -> None:
    """Notes that a stream has ended: unless there is a newer one, the participant has none."""
    await connection.execute(
        "update aegis.attendance set stream_id = '' where participant = %s and stream_id = %s",
        (participant, stream_id),
    )
