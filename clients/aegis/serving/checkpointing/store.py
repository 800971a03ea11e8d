"""SQL of checkpoints. Every program has the same two tables, each in its own schema."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import NamedTuple

from aegis.serving.database import Connection


class KeptNote(NamedTuple):
    """A checkpoint: its number among all, the size of its tree, when it was cut, its whole note."""

    number: int
    tree_size: int
    at: datetime
    note: str


class CheckpointStore:
    """The statements, for one schema; each runs in the caller's transaction."""

    def __init__(self, schema: str) -> None:
        if re.fullmatch(r"[a-z_]+", schema) is None:
            raise ValueError(f"{schema!r} is no schema of ours")
        self._schema = schema.encode()
        self._lock = self._key(b"checkpoints of ")
        self._turn = self._key(b"exchange of checkpoints of ")

    def _key(self, name: bytes) -> int:
        digest = hashlib.sha256(name + self._schema).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def _sql(self, text: str) -> bytes:
        return text.encode().replace(b"SCHEMA", self._schema)

    async def lock(self, connection: Connection) -> None:
        """Lets one replica at a time cut, until the transaction ends."""
        await connection.execute("select pg_advisory_xact_lock(%s)", (self._lock,))

    async def take_turn(self, connection: Connection) -> bool:
        """Says whether this replica may exchange checkpoints, until the transaction ends."""
        cursor = await connection.execute("select pg_try_advisory_xact_lock(%s)", (self._turn,))
        return await cursor.fetchone() == (True,)

    async def insert(self, connection: Connection, size: int, at: datetime, note: str) -> None:
        """Keeps a checkpoint."""
        await connection.execute(
            self._sql(
                "insert into SCHEMA.audit_checkpoint (tree_size, at, note) values (%s, %s, %s)"
            ),
            (size, at, note),
        )

    async def add_cosignature(
        self, connection: Connection, number: int, witness: str, line: str, at: datetime
    ) -> None:
        """Keeps a witness' signature line; the first one it gave stays."""
        await connection.execute(
            self._sql(
                """
                insert into SCHEMA.audit_cosignature (number, witness, line, at)
                values (%s, %s, %s, %s) on conflict do nothing
                """
            ),
            (number, witness, line, at),
        )

    async def newest(self, connection: Connection) -> KeptNote | None:
        """Returns the last checkpoint."""
        cursor = await connection.execute(
            self._sql("select max(number) - 1 from SCHEMA.audit_checkpoint")
        )
        row = await cursor.fetchone()
        if row is None or row[0] is None:
            return None
        found = await self.since(connection, size=0, after=row[0], limit=1)
        return found[0] if found else None

    async def since(
        self, connection: Connection, *, size: int, after: int, limit: int
    ) -> list[KeptNote]:
        """Returns checkpoints of trees at least that large, cut after number `after`, in order."""
        cursor = await connection.execute(
            self._sql(
                """
                select c.number, c.tree_size, c.at,
                       c.note || coalesce(string_agg(s.line, '' order by s.at, s.witness), '')
                from SCHEMA.audit_checkpoint c left join SCHEMA.audit_cosignature s using (number)
                where c.tree_size >= %s and c.number > %s
                group by c.number order by c.number limit %s
                """
            ),
            (size, after, limit),
        )
        return [KeptNote(*row) for row in await cursor.fetchall()]

    async def kinds_since(self, connection: Connection, size: int) -> dict[int, datetime]:
        """Returns the kinds of records behind a size, each with the time of its first one."""
        cursor = await connection.execute(
            self._sql(
                "select kind, min(at) from SCHEMA.audit_record where idx >= %s group by kind"
            ),
            (size,),
        )
        return {int(kind): at for kind, at in await cursor.fetchall()}

    async def actions_since(self, connection: Connection, size: int, kind: int) -> set[str]:
        """Returns the verbs of records of one kind behind a size."""
        cursor = await connection.execute(
            self._sql(
                """
                select distinct i.action
                from SCHEMA.audit_record r join SCHEMA.audit_index i using (idx)
                where r.idx >= %s and r.kind = %s
                """
            ),
            (size, kind),
        )
        return {action for (action,) in await cursor.fetchall()}

    async def last_record(
        self, connection: Connection, kind: int, actor: str, outcome: str
    ) -> bytes | None:
        """Returns the last record of one kind, about one actor, that ended so."""
        cursor = await connection.execute(
            self._sql(
                """
                select r.record
                from SCHEMA.audit_record r join SCHEMA.audit_index i using (idx)
                where r.kind = %s and i.actor = %s and i.outcome = %s
                order by r.idx desc limit 1
                """
            ),
            (kind, actor, outcome),
        )
        row = await cursor.fetchone()
        return bytes(row[0]) if row else None
