"""SQL of pauses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from aegis.serving.database import Connection


@dataclass(frozen=True, slots=True)
class StoredPause:
    """A row of aegis.pause. Empty scope fields are everything.

    `executor_at`: since when the executor has it; None while it has not heard of it.
    """

    pause_id: str
    namespace: str
    action: str
    who: str
    reason: str
    created_at: datetime
    expires_at: datetime | None
    resumed_by: str = ""
    resumed_at: datetime | None = None
    resume_reason: str = ""
    executor_at: datetime | None = None

    def holds_for(self, namespace: str, verb: str) -> bool:
        """Says whether an action in this namespace is in its scope."""
        return self.namespace in ("", namespace) and self.action in ("", verb)

    @property
    def scope(self) -> str:
        """Its scope in a few words."""
        return " in ".join(filter(None, (self.action or "everything", self.namespace)))


_NAMES = tuple(StoredPause.__slots__)
_COLUMNS = ", ".join(_NAMES)


async def insert(connection: Connection, pause: StoredPause) -> None:
    """Stores a new pause."""
    placeholders = ", ".join(f"%({name})s" for name in _NAMES)
    await connection.execute(
        f"insert into aegis.pause ({_COLUMNS}) values ({placeholders})",  # noqa: S608
        {name: getattr(pause, name) for name in _NAMES},
    )


async def find(connection: Connection, pause_id: str, *, lock: bool = False) -> StoredPause | None:
    """Returns a pause, whether it has ended or not; `lock` keeps others from telling of it."""
    async with connection.cursor(row_factory=class_row(StoredPause)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.pause where pause_id = %s {"for update" if lock else ""}
            """,  # noqa: S608
            (pause_id,),
        )
        return await cursor.fetchone()


async def standing(connection: Connection, now: datetime) -> list[StoredPause]:
    """Returns the pauses that hold now, the oldest first."""
    async with connection.cursor(row_factory=class_row(StoredPause)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.pause
            where resumed_at is null and (expires_at is null or expires_at > %s)
            order by created_at, pause_id
            """,  # noqa: S608
            (now,),
        )
        return await cursor.fetchall()


async def untold(connection: Connection, now: datetime, limit: int) -> list[StoredPause]:
    """Locks pauses that hold and that the executor does not have, for one server to tell it."""
    async with connection.cursor(row_factory=class_row(StoredPause)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.pause
            where resumed_at is null and (expires_at is null or expires_at > %s)
                and executor_at is null
            order by created_at limit %s for update skip locked
            """,  # noqa: S608
            (now, limit),
        )
        return await cursor.fetchall()


async def told(connection: Connection, pause_id: str, at: datetime) -> None:
    """Writes down that the executor has it."""
    await connection.execute(
        "update aegis.pause set executor_at = %s where pause_id = %s", (at, pause_id)
    )


async def resume(
    connection: Connection, pause_id: str, *, who: str, reason: str, at: datetime
) -> None:
    """Ends a pause."""
    await connection.execute(
        """
        update aegis.pause set resumed_by = %s, resume_reason = %s, resumed_at = %s
        where pause_id = %s and resumed_at is null
        """,
        (who, reason, at, pause_id),
    )
