"""What is over, kept in this process, so that a claim reads only what is new.

The journal's tables are append-only: once a deed is over, its row and everything it was joined with
stay as they are, and reading a day of them again for every question took most of a claim. Which
are kept is told to the query by their ids, not by a time, so nothing that was written late, or by
another executor, is missed.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from aegis.serving.database import Connection
from aegis_executor.guards import store
from aegis_executor.guards.history import Deed


class Memory:
    """The deeds of one executor's guards."""

    def __init__(self) -> None:
        self._over: dict[str, Deed] = {}

    async def deeds(
        self, connection: Connection, *, now: datetime, memory: timedelta, besides: str | None
    ) -> list[Deed]:
        """Returns what counts, the newest first, without the request `besides`.

        What is older than `memory` is forgotten; it is read again should the clock go back.
        """
        since = now - memory
        # Our own copy: others may ask, and learn something, while we wait.
        over = {each.request_id: each for each in self._over.values() if each.at > since}
        fresh = await store.deeds(
            connection, now=now, memory=memory, besides=besides, known=list(over)
        )
        self._over = over | {each.request_id: each for each in fresh if each.final}
        kept = [each for each in over.values() if each.request_id != besides]
        return sorted([*kept, *fresh], key=lambda deed: deed.at, reverse=True)[: store.ROWS_MAX]
