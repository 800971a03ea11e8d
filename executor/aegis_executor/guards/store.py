"""The guards' SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from aegis.serving.database import Connection
from aegis.v1 import envelope_pb2
from aegis_executor.guards.history import Deed
from aegis_executor.guards.pauses import Pause
from aegis_executor.guards.storm import Storm

# "grds"
_LOCK = 0x67726473
# Longer than any verification may take: what is older has ended, or a sweep is at it.
_OPEN_FOR = timedelta(days=3)
ROWS_MAX = 20_000


async def take_turn(connection: Connection) -> None:
    """Waits until nobody else is counting; until the end of the transaction."""
    await connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))


_DEED = """
select intent.request_id::text, intent.action, intent.kind, intent.namespace, intent.name,
       intent.incident_id, intent.intent_at,
       coalesce(verdict.state, ending.state, 'INTENT'),
       coalesce(nullif(verdict.reason, ''), ending.reason, ''),
       coalesce(verdict.at, ending.ended_at), resolution.request_id is not null,
       case when ending.request_id is null then intent.request end
from aegis_executor.intent
left join aegis_executor.ending using (request_id)
left join aegis_executor.verdict using (request_id)
left join aegis_executor.resolution using (request_id)
"""

# What is recent, or under way, and what nobody knows the end of however old it is. Dry runs count
# for nothing, and so do intents of before there were guards.
_DEEDS = f"""
{_DEED}
where intent.intent_at > %(open_since)s and intent.name <> ''
    and intent.request_id <> %(besides)s
    and intent.request_id not in (select unnest(%(known)s::uuid[]))
    and ending.state is distinct from 'DRY_RUN'
    and (intent.intent_at > %(since)s or verdict.request_id is null
         and (ending.state is null or ending.state = 'APPLIED'))
union
{_DEED}
where ending.state = 'UNKNOWN' and resolution.request_id is null
    and intent.name <> '' and intent.request_id <> %(besides)s
order by 7 desc
limit {ROWS_MAX}
"""  # noqa: S608  # nothing of it comes from outside

_NOBODY = "00000000-0000-0000-0000-000000000000"


async def deeds(
    connection: Connection,
    *,
    now: datetime,
    memory: timedelta,
    besides: str | None,
    known: Sequence[str] = (),
) -> list[Deed]:
    """Returns what counts, the newest first, without the request `besides` and those `known`."""
    cursor = await connection.execute(
        _DEEDS,
        {
            "open_since": now - max(_OPEN_FOR, memory),
            "since": now - memory,
            "besides": besides or _NOBODY,
            # As one text: a list is escaped item by item, which takes longer than the query.
            "known": "{" + ",".join(known) + "}",
        },
    )
    return [Deed(*row) for *row, request in await cursor.fetchall() if not _dry(request)]


def _dry(request: bytes | None) -> bool:
    """True for a dry run that has not ended; how it will, only what was signed tells."""
    # These bytes were verified and validated before they were written down.
    return request is not None and (
        envelope_pb2.ActionRequest.FromString(bytes(request)).mode
        == envelope_pb2.ActionRequest.MODE_DRY_RUN
    )


async def pauses(connection: Connection, now: datetime) -> list[Pause]:
    """Returns what nobody has resumed and time has not ended."""
    cursor = await connection.execute(
        """
        select pause_id, namespace, action, who, reason, at, expires_at
        from aegis_executor.pause
        where (expires_at is null or expires_at > %s)
            and not exists (select from aegis_executor.resume
                            where resume.pause_id = pause.pause_id)
        order by at
        """,
        (now,),
    )
    return [Pause(*row) for row in await cursor.fetchall()]


async def insert_pause(connection: Connection, pause: Pause) -> bool:
    """Lays a pause; False when it is there already."""
    cursor = await connection.execute(
        """
        insert into aegis_executor.pause
            (pause_id, namespace, action, who, reason, at, expires_at)
        values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing returning true
        """,
        (
            pause.pause_id,
            pause.namespace,
            pause.action,
            pause.who,
            pause.reason,
            pause.at,
            pause.expires_at,
        ),
    )
    return await cursor.fetchone() is not None


async def insert_resume(
    connection: Connection, *, pause_id: str, who: str, reason: str, at: datetime
) -> bool:
    """Ends a pause, also one that comes later; False when it was ended already."""
    cursor = await connection.execute(
        """
        insert into aegis_executor.resume (pause_id, who, reason, at)
        values (%s, %s, %s, %s) on conflict do nothing returning true
        """,
        (pause_id, who, reason, at),
    )
    return await cursor.fetchone() is not None


@dataclass(frozen=True, slots=True)
class Resolution:
    """A row of `resolution`, with the state it is about and the action it was."""

    state: str
    action: str
    action_id: str
    found: str | None


async def resolution(connection: Connection, request_id: str) -> Resolution | None:
    """Returns how a request stands and what was found out; None when it was never claimed."""
    cursor = await connection.execute(
        """
        select coalesce(verdict.state, ending.state, 'INTENT'), intent.action, intent.action_id,
               resolution.found
        from aegis_executor.intent
        left join aegis_executor.ending using (request_id)
        left join aegis_executor.verdict using (request_id)
        left join aegis_executor.resolution using (request_id)
        where intent.request_id = %s
        """,
        (request_id,),
    )
    row = await cursor.fetchone()
    return Resolution(*row) if row else None


async def insert_resolution(
    connection: Connection, *, request_id: str, found: str, who: str, reason: str, at: datetime
) -> None:
    """Stores what a person found; the first word stands."""
    await connection.execute(
        """
        insert into aegis_executor.resolution (request_id, found, who, reason, at)
        values (%s, %s, %s, %s, %s) on conflict do nothing
        """,
        (request_id, found, who, reason, at),
    )


async def last_storm(connection: Connection) -> Storm | None:
    """Returns storm mode as it was last written down, but for blindness, which says nothing."""
    cursor = await connection.execute(
        """
        select state, at, cause, watched, anomalous, pace from aegis_executor.storm
        where state <> 'BLIND' order by number desc limit 1
        """
    )
    row = await cursor.fetchone()
    return Storm(*row) if row else None


async def insert_storm(connection: Connection, storm: Storm, at: datetime) -> None:
    """Writes a change of storm mode down."""
    await connection.execute(
        """
        insert into aegis_executor.storm (state, cause, watched, anomalous, pace, at)
        values (%s, %s, %s, %s, %s, %s)
        """,
        (storm.state, storm.cause, storm.watched, storm.anomalous, storm.pace, at),
    )
