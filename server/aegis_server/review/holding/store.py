"""SQL of held updates and of overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from aegis.serving.database import Connection


@dataclass(frozen=True, slots=True)
class OverrideRow:
    """A row of aegis.review_override."""

    seq: int
    update_id: str
    from_verdict: str
    to_verdict: str
    by_whom: str
    confirmed_by: str
    reason: str
    decided_at: datetime
    effective: bool


_COLUMNS = ", ".join(OverrideRow.__slots__)


async def overrides_of(
    connection: Connection, update_ids: Sequence[str]
) -> dict[str, tuple[OverrideRow, ...]]:
    """Returns who decided otherwise about each of these updates, oldest first."""
    async with connection.cursor(row_factory=class_row(OverrideRow)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.review_override
            where update_id = any(%s) order by seq
            """,  # noqa: S608
            (list(update_ids),),
        )
        found: dict[str, tuple[OverrideRow, ...]] = {}
        for row in await cursor.fetchall():
            found[row.update_id] = (*found.get(row.update_id, ()), row)
    return found


async def lock_update(connection: Connection, update_id: str) -> str | None:
    """Returns an update's verdict and keeps others from changing it until the transaction ends."""
    cursor = await connection.execute(
        "select verdict from aegis.review_update where update_id = %s for update", (update_id,)
    )
    found = await cursor.fetchone()
    return str(found[0]) if found else None


async def add(
    connection: Connection,
    update_id: str,
    *,
    before: str,
    after: str,
    by: str,
    reason: str,
    effective: bool,
    now: datetime,
) -> None:
    """Notes that somebody decided, or wants to."""
    await connection.execute(
        """
        insert into aegis.review_override
            (update_id, from_verdict, to_verdict, by_whom, reason, effective, decided_at)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (update_id, before, after, by, reason, effective, now),
    )


async def confirm(connection: Connection, seq: int, *, by: str, now: datetime) -> None:
    """The second person said the same."""
    await connection.execute(
        """
        update aegis.review_override
        set confirmed_by = %s, effective = true, decided_at = %s where seq = %s
        """,
        (by, now, seq),
    )


async def withdraw(connection: Connection, update_id: str) -> None:
    """Forgets what waits for a second person: the update was decided another way meanwhile."""
    await connection.execute(
        "delete from aegis.review_override where update_id = %s and not effective", (update_id,)
    )


async def set_verdict(connection: Connection, update_id: str, verdict: str) -> None:
    """Changes the verdict of an update whose row is locked."""
    await connection.execute(
        "update aegis.review_update set verdict = %s where update_id = %s", (verdict, update_id)
    )


async def overdue(connection: Connection, now: datetime, *, limit: int) -> list[str]:
    """Returns held updates whose time is over and locks them; what others have is skipped."""
    cursor = await connection.execute(
        """
        select update_id from aegis.review_update
        where verdict = 'held' and hold_until <= %s
        order by hold_until limit %s for update skip locked
        """,
        (now, limit),
    )
    return [str(row[0]) for row in await cursor.fetchall()]
