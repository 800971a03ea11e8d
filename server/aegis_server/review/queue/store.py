"""SQL of the queue. Its tables are procrastinate's; which of them there are, is ours to know."""

from __future__ import annotations

from collections.abc import Sequence

from aegis.serving.database import Connection

_LOCK = 0x61717565  # "aque"


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
