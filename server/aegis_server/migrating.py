"""The server's tables: our own numbered migrations, then the queue's, which are procrastinate's."""

from __future__ import annotations

from aegis.serving import database
from aegis_server.review.queue import schema


async def migrate(url: str) -> list[str]:
    """Brings the server's schema up to date, as its owner; returns the names of what it applied.

    Any number of programs may do so at once. Raises RuntimeError when the database is newer than
    this program, or a migration was edited since.
    """
    ours = await database.migrate(url, "aegis_server", "aegis")
    return ours + await schema.bring_up_to_date(url, schema.installed())
