"""The fencing epoch: who may act, as a number every transaction names.

The lock says who is first, but its holder may have lost it and not know yet. So each transaction
that claims, sends or ends asks whether the newest epoch is still its own. A new epoch waits for
transactions that have asked already: none of them commits after it.
"""

from __future__ import annotations

from datetime import datetime

from aegis.errors import Aborted
from aegis.serving.database import Connection

# "epch"
_LOCK = 0x65706368


class Epoch:
    """One executor's turn; `number` is what its intents carry."""

    def __init__(self, number: int) -> None:
        self.number = number

    async def check(self, connection: Connection) -> None:
        """Raises `Aborted` (FENCED) when another executor has taken over.

        From here to the end of the caller's transaction nobody can.
        """
        await connection.execute("select pg_advisory_xact_lock_shared(%s)", (_LOCK,))
        newest = await _newest(connection)
        if newest != self.number:
            raise Aborted("FENCED", f"epoch {newest} acts, this executor is of epoch {self.number}")


async def begin(connection: Connection, holder: str, at: datetime) -> Epoch:
    """Begins the next epoch; call it while holding the journal's lock."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        number = await _newest(connection) + 1
        await connection.execute(
            "insert into aegis_executor.epoch (epoch, holder, at) values (%s, %s, %s)",
            (number, holder, at),
        )
    return Epoch(number)


async def _newest(connection: Connection) -> int:
    cursor = await connection.execute("select coalesce(max(epoch), 0) from aegis_executor.epoch")
    row = await cursor.fetchone()
    return int(row[0]) if row else 0
