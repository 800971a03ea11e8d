"""SQL of golden sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from aegis.serving.database import Connection


@dataclass(frozen=True, slots=True)
class StoredSet:
    """A row of aegis.golden_set; what ships with Aegis has no time of creation."""

    dataset: str
    version: int
    state: str
    sha256: bytes
    row_count: int
    class_counts: Sequence[int]
    description: str
    created_by: str
    created_at: datetime | None
    promoted_by: str = ""
    promoted_at: datetime | None = None


_COLUMNS = ", ".join(StoredSet.__slots__)


async def insert(connection: Connection, golden: StoredSet) -> None:
    """Stores a version; one that is there already stays as it is."""
    await connection.execute(
        """
        insert into aegis.golden_set (dataset, version, state, sha256, row_count, class_counts,
                                      description, created_by, created_at)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (dataset, version) do nothing
        """,
        (
            *(golden.dataset, golden.version, golden.state, golden.sha256, golden.row_count),
            *(list(golden.class_counts), golden.description),
            *(golden.created_by, golden.created_at),
        ),
    )


async def lock(connection: Connection, dataset: str) -> None:
    """Keeps others from adding or promoting versions of a data set until the transaction ends."""
    await connection.execute(
        "select from aegis.golden_set where dataset = %s and version = 0 for update", (dataset,)
    )


async def registered(connection: Connection, datasets: Sequence[str]) -> set[str]:
    """Returns those of these data sets whose version 0 has its row."""
    cursor = await connection.execute(
        "select dataset from aegis.golden_set where version = 0 and dataset = any(%s)",
        (list(datasets),),
    )
    return {name for (name,) in await cursor.fetchall()}


async def find(connection: Connection, dataset: str, version: int) -> StoredSet | None:
    """Returns a version."""
    return await _one(connection, "dataset = %s and version = %s", (dataset, version))


async def active(connection: Connection, dataset: str) -> StoredSet | None:
    """Returns the version in use."""
    return await _one(connection, "dataset = %s and state = 'active'", (dataset,))


async def of_rows(connection: Connection, dataset: str, sha256: bytes) -> StoredSet | None:
    """Returns the version that has these rows."""
    return await _one(connection, "dataset = %s and sha256 = %s", (dataset, sha256))


async def newest(connection: Connection, dataset: str) -> int:
    """Returns the highest version there is."""
    cursor = await connection.execute(
        "select coalesce(max(version), 0) from aegis.golden_set where dataset = %s", (dataset,)
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def set_state(connection: Connection, dataset: str, version: int, state: str) -> None:
    """Moves a version to a state; the caller holds the lock."""
    await connection.execute(
        "update aegis.golden_set set state = %s where dataset = %s and version = %s",
        (state, dataset, version),
    )


async def activate(
    connection: Connection, dataset: str, version: int, *, by: str, at: datetime
) -> None:
    """Puts a version in use and retires the one that was; the caller holds the lock."""
    # Two statements: the index that lets one be active looks at each row by itself.
    await connection.execute(
        "update aegis.golden_set set state = 'retired' where dataset = %s and state = 'active'",
        (dataset,),
    )
    await connection.execute(
        """
        update aegis.golden_set set state = 'active', promoted_by = %s, promoted_at = %s
        where dataset = %s and version = %s
        """,
        (by, at, dataset, version),
    )


async def page(
    connection: Connection,
    *,
    dataset: str,
    before: tuple[str, str, int] | None,
    limit: int,
) -> list[StoredSet]:
    """Returns versions, newest first, behind a position: time in ISO, data set and version.

    What ships with Aegis is older than everything.
    """
    at, name, version = before or ("infinity", "", 0)
    async with connection.cursor(row_factory=class_row(StoredSet)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.golden_set
            where (coalesce(created_at, '-infinity'), dataset collate "C", version)
                < (%(at)s::timestamptz, %(name)s::text, %(version)s::int)
              and (%(dataset)s = '' or dataset = %(dataset)s)
            order by coalesce(created_at, '-infinity') desc, dataset collate "C" desc, version desc
            limit %(limit)s
            """,  # noqa: S608
            {"at": at, "name": name, "version": version, "dataset": dataset, "limit": limit},
        )
        return await cursor.fetchall()


async def _one(
    connection: Connection, condition: str, values: tuple[object, ...]
) -> StoredSet | None:
    async with connection.cursor(row_factory=class_row(StoredSet)) as cursor:
        await cursor.execute(
            f"select {_COLUMNS} from aegis.golden_set where {condition}",  # noqa: S608
            values,
        )
        return await cursor.fetchone()
