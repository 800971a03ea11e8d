"""SQL of the number that every change of who is who counts up."""

from __future__ import annotations

from aegis.serving.database import Connection


async def begin_change(connection: Connection) -> None:
    """Counts the version up; no other change proceeds until this transaction ends.

    Call it before any other row is locked: all changes then take their locks in one order.
    """
    await connection.execute("update aegis.identity_version set version = version + 1")


async def version(connection: Connection) -> int:
    """Returns the version that is committed."""
    cursor = await connection.execute("select version from aegis.identity_version")
    row = await cursor.fetchone()
    if row is None:
        raise RuntimeError("aegis.identity_version has lost its row")
    return int(row[0])
