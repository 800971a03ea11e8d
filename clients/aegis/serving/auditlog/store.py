"""SQL of an audit log. Every program has the same tables, each in its own schema.

`audit_record` is the log. `audit_index` is made from it, row for row: what records are looked up
by, and the hashes of the subtrees that each completes. `audit_attachment` may be erased.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypeAlias

from aegis.audit.chain import GENESIS
from aegis.audit.merkle import HASH_BYTES, Node
from aegis.serving.database import Connection


class Row(NamedTuple):
    """One record as it is stored."""

    idx: int
    kind: int
    subject_id: str
    record: bytes
    leaf_hash: bytes
    prev_chain_hash: bytes
    chain_hash: bytes


class Index(NamedTuple):
    """What a record is looked up by; `subtrees` are 32 bytes for each height from 1 up."""

    idx: int
    actor: str
    action: str
    resource: str
    outcome: str
    subtrees: bytes


class Attachment(NamedTuple):
    """What is stored beside a record."""

    idx: int
    name: str
    salt: bytes
    content: bytes


class Appended(NamedTuple):
    """Records made at one moment for one place of the log, with all that belongs to them."""

    at: datetime
    rows: Sequence[Row]
    lookups: Sequence[Index]
    attachments: Sequence[Attachment]


class Stored(NamedTuple):
    """A record with its hashes and what is still beside it."""

    idx: int
    record: bytes
    leaf_hash: bytes
    prev_chain_hash: bytes
    chain_hash: bytes
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records; empty values pass every one."""

    kinds: tuple[int, ...] = ()
    subject_id: str = ""
    actor: str = ""
    action: str = ""
    resource: str = ""
    outcome: str = ""
    start: datetime | None = None
    end: datetime | None = None

    def parameters(self) -> dict[str, object]:
        """Returns the values `_FILTER` asks for."""
        return {
            "kinds": list(self.kinds),
            "subject_id": _text(self.subject_id),
            "actor": _text(self.actor),
            "action": _text(self.action),
            "resource": _text(self.resource).rstrip("/"),
            "outcome": _text(self.outcome),
            "start": self.start,
            "end": self.end,
        }


Columns: TypeAlias = list[list[object]]

_FILTER = """
    (cardinality(%(kinds)s::smallint[]) = 0 or r.kind = any(%(kinds)s))
    and (%(subject_id)s = '' or r.subject_id = %(subject_id)s)
    and (%(actor)s = '' or i.actor = %(actor)s)
    and (%(action)s = '' or i.action = %(action)s)
    and (%(resource)s = '' or i.resource = %(resource)s
         or starts_with(i.resource, %(resource)s || '/'))
    and (%(outcome)s = '' or i.outcome = %(outcome)s)
    and (%(start)s::timestamptz is null or r.at >= %(start)s)
    and (%(end)s::timestamptz is null or r.at < %(end)s)
"""

_HEAD = "select idx, chain_hash from SCHEMA.audit_record order by idx desc limit 1"
_INDEX = """
    insert into SCHEMA.audit_index (idx, actor, action, resource, outcome, subtrees)
    select * from unnest(%b::bigint[], %b::text[], %b::text[], %b::text[], %b::text[], %b::bytea[])
"""


class Store:
    """The statements, for one schema; each runs in the caller's transaction."""

    def __init__(self, schema: str) -> None:
        if re.fullmatch(r"[a-z_]+", schema) is None:
            raise ValueError(f"{schema!r} is no schema of ours")
        self._schema = schema.encode()
        digest = hashlib.sha256(b"audit log of " + self._schema).digest()
        self._lock = int.from_bytes(digest[:8], "big", signed=True)

    def _sql(self, text: str) -> bytes:
        for name, part in (("FILTER", _FILTER), ("HEAD", _HEAD), ("INDEX", _INDEX)):
            text = text.replace(name, part)
        return text.encode().replace(b"SCHEMA", self._schema)

    async def lock_head(self, connection: Connection) -> tuple[int, bytes]:
        """Takes the log's lock until the transaction ends; returns the next index and last hash."""
        async with connection.pipeline():
            # Sent together, run one after the other: the head is read behind the lock.
            await connection.execute("select pg_advisory_xact_lock(%s)", (self._lock,))
            return await self.head(connection)

    async def head(self, connection: Connection) -> tuple[int, bytes]:
        """Returns the log's size and the chain hash of its last record."""
        cursor = await connection.execute(self._sql("HEAD"))
        return _size_and_hash(await cursor.fetchone())

    async def append(
        self, connection: Connection, chained: bytes, appended: Appended
    ) -> tuple[int, bytes]:
        """Takes the log's lock and stores records behind the one of that chain hash.

        Returns the head there was. If it was another one, nothing was stored. One round trip.
        """
        async with connection.pipeline():
            # Sent together, run one after the other: the second looks from behind the lock.
            await connection.execute("select pg_advisory_xact_lock(%s)", (self._lock,))
            head = await connection.execute(self._sql("HEAD"))
            await connection.execute(
                self._sql(
                    """
                    with added as (
                        insert into SCHEMA.audit_record (at, idx, kind, subject_id, record,
                                                         leaf_hash, prev_chain_hash, chain_hash)
                        select %b, * from unnest(%b::bigint[], %b::smallint[], %b::text[],
                                                 %b::bytea[], %b::bytea[], %b::bytea[], %b::bytea[])
                        where coalesce((select chain_hash from (HEAD) as head), %b::bytea) = %b
                        returning idx
                    ), beside as (
                        insert into SCHEMA.audit_attachment (idx, name, salt, content)
                        select * from unnest(%b::bigint[], %b::text[], %b::bytea[], %b::bytea[])
                        where exists (select from added)
                    )
                    INDEX where exists (select from added)
                    """
                ),
                [
                    appended.at,
                    *_columns(appended.rows, Row),
                    GENESIS,
                    chained,
                    *_columns(appended.attachments, Attachment),
                    *_columns(appended.lookups, Index),
                ],
            )
        return _size_and_hash(await head.fetchone())

    async def insert_index(self, connection: Connection, index: Sequence[Index]) -> None:
        """Stores what records that have no index are looked up by."""
        await connection.execute(self._sql("INDEX"), _columns(index, Index))

    async def indexed(self, connection: Connection) -> int:
        """Returns how many records have their index row: all, but in a log of an older Aegis."""
        cursor = await connection.execute(
            self._sql("select coalesce(max(idx) + 1, 0) from SCHEMA.audit_index")
        )
        row = await cursor.fetchone()
        return int(row[0]) if row else 0

    async def nodes(self, connection: Connection, nodes: Sequence[Node]) -> list[bytes]:
        """Returns the hashes of perfect subtrees of the tree; KeyError for one that is not there.

        The one of height h at position k ends with the leaf ((k+1) << h) - 1, and is kept there.
        """
        places = [(((k + 1) << h) - 1, h) for h, k in nodes]
        cursor = await connection.execute(
            self._sql(
                """
                select r.idx, r.leaf_hash, i.subtrees
                from SCHEMA.audit_record r join SCHEMA.audit_index i using (idx)
                where r.idx = any(%s)
                """
            ),
            (sorted({idx for idx, _ in places}),),
        )
        found = {idx: bytes(leaf) + bytes(more) for idx, leaf, more in await cursor.fetchall()}
        return [found[idx][h * HASH_BYTES : (h + 1) * HASH_BYTES] for idx, h in places]

    async def page_before(
        self, connection: Connection, *, before: int, limit: int, chosen: Filter
    ) -> list[tuple[int, bytes]]:
        """Returns index and bytes of the newest records below `before` that pass the filter."""
        cursor = await connection.execute(
            self._sql(
                """
                select r.idx, r.record
                from SCHEMA.audit_record r join SCHEMA.audit_index i using (idx)
                where r.idx < %(before)s and FILTER
                order by r.idx desc limit %(limit)s
                """
            ),
            {**chosen.parameters(), "before": before, "limit": limit},
        )
        return [(idx, bytes(record)) for idx, record in await cursor.fetchall()]

    async def page_from(
        self, connection: Connection, *, start: int, end: int, limit: int, chosen: Filter
    ) -> list[tuple[int, bytes]]:
        """Returns index and bytes of records in [start, end) that pass the filter, in order."""
        cursor = await connection.execute(
            self._sql(
                """
                select r.idx, r.record
                from SCHEMA.audit_record r join SCHEMA.audit_index i using (idx)
                where r.idx >= %(from)s and r.idx < %(until)s and FILTER
                order by r.idx limit %(limit)s
                """
            ),
            {**chosen.parameters(), "from": start, "until": end, "limit": limit},
        )
        return [(idx, bytes(record)) for idx, record in await cursor.fetchall()]

    async def stored_from(self, connection: Connection, *, start: int, limit: int) -> list[Stored]:
        """Returns records with hashes and attachments from `start` on, in order."""
        cursor = await connection.execute(
            self._sql(
                """
                select idx, record, leaf_hash, prev_chain_hash, chain_hash
                from SCHEMA.audit_record where idx >= %s order by idx limit %s
                """
            ),
            (start, limit),
        )
        rows = await cursor.fetchall()
        if not rows:
            return []
        beside = await self._attachments(connection, rows[0][0], rows[-1][0])
        return [
            Stored(idx, bytes(raw), bytes(leaf), bytes(before), bytes(chained), beside.get(idx, ()))
            for idx, raw, leaf, before, chained in rows
        ]

    async def _attachments(
        self, connection: Connection, first: int, last: int
    ) -> Mapping[int, tuple[Attachment, ...]]:
        cursor = await connection.execute(
            self._sql(
                """
                select idx, name, salt, content from SCHEMA.audit_attachment
                where idx between %s and %s order by idx, name
                """
            ),
            (first, last),
        )
        found: dict[int, tuple[Attachment, ...]] = {}
        for idx, name, salt, content in await cursor.fetchall():
            attachment = Attachment(idx, name, bytes(salt), bytes(content))
            found[idx] = (*found.get(idx, ()), attachment)
        return found

    async def erase(self, connection: Connection, idx: int) -> list[str]:
        """Deletes what is beside a record; returns the names of what was there."""
        cursor = await connection.execute(
            self._sql("delete from SCHEMA.audit_attachment where idx = %s returning name"), (idx,)
        )
        return sorted(name for (name,) in await cursor.fetchall())


def _size_and_hash(last: tuple[int, bytes] | None) -> tuple[int, bytes]:
    return (last[0] + 1, bytes(last[1])) if last else (0, GENESIS)


def _columns(rows: Sequence[tuple[object, ...]], kind: type[Row | Index | Attachment]) -> Columns:
    if not rows:
        return [[] for _ in kind._fields]
    return [
        [_text(value) if isinstance(value, str) else value for value in column]
        for column in zip(*rows, strict=True)
    ]


def _text(value: str) -> str:
    # Postgres has no NUL in texts; a caller that sends one gets a record, not an error of ours.
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
