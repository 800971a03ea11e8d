"""SQL of the audit room."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from aegis.audit.chain import GENESIS
from aegis.serving.database import Connection

_LOCK = 0x61756474  # "audt"


class Row(NamedTuple):
    """One record as it is stored."""

    idx: int
    at: datetime
    kind: int
    subject_id: str
    record: bytes
    leaf_hash: bytes
    prev_chain_hash: bytes
    chain_hash: bytes


async def lock_head(connection: Connection) -> tuple[int, bytes]:
    """Takes the log's lock until the transaction ends; returns the next index and last hash."""
    async with connection.pipeline():
        # Sent together, run one after the other: the head is read behind the lock.
        await connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        return await head(connection)


async def head(connection: Connection) -> tuple[int, bytes]:
    """Returns the log's size and the chain hash of its last record."""
    cursor = await connection.execute(
        "select idx, chain_hash from aegis.audit_record order by idx desc limit 1"
    )
    row = await cursor.fetchone()
    return (row[0] + 1, bytes(row[1])) if row else (0, GENESIS)


async def insert(connection: Connection, rows: Sequence[Row]) -> None:
    """Stores records in one statement, whatever their number."""
    await connection.execute(
        """
        insert into aegis.audit_record
            (idx, at, kind, subject_id, record, leaf_hash, prev_chain_hash, chain_hash)
        select * from unnest(%s::bigint[], %s::timestamptz[], %s::smallint[], %s::text[],
                             %s::bytea[], %s::bytea[], %s::bytea[], %s::bytea[])
        """,
        [list(column) for column in zip(*rows, strict=True)],
    )


async def page_before(
    connection: Connection, *, before: int, limit: int, kinds: Sequence[int], subject_id: str
) -> list[tuple[int, bytes]]:
    """Returns index and bytes of the newest records below `before` that pass the filters."""
    cursor = await connection.execute(
        """
        select idx, record from aegis.audit_record
        where idx < %(before)s
          and (cardinality(%(kinds)s::smallint[]) = 0 or kind = any(%(kinds)s))
          and (%(subject_id)s = '' or subject_id = %(subject_id)s)
        order by idx desc limit %(limit)s
        """,
        {"before": before, "kinds": list(kinds), "subject_id": subject_id, "limit": limit},
    )
    return [(idx, bytes(record)) for idx, record in await cursor.fetchall()]


async def stored_from(
    connection: Connection, *, start: int, limit: int
) -> list[tuple[int, bytes, bytes, bytes, bytes]]:
    """Returns records with their hashes from `start` on, in order."""
    cursor = await connection.execute(
        """
        select idx, record, leaf_hash, prev_chain_hash, chain_hash from aegis.audit_record
        where idx >= %s order by idx limit %s
        """,
        (start, limit),
    )
    return [
        (idx, bytes(record), bytes(leaf), bytes(previous), bytes(chained))
        for idx, record, leaf, previous, chained in await cursor.fetchall()
    ]
