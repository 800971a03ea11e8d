"""SQL of the decision log."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple

import psycopg
from psycopg.rows import class_row

from aegis.errors import Unavailable
from aegis.serving.database import Connection, Database
from aegis_server.policy.decisionlog.batches import Batch
from aegis_server.policy.decisionlog.lines import Line, escaped

_LINE = (
    "at, decision_id, effect, source, revision, microseconds, attributes_digest,"
    " caller, subject, domain, resource, action, rule_id"
)
_COPY = f"copy aegis.decision ({_LINE}, log, batch, place) from stdin"
_COPY_KEEPING = f"copy aegis.decision ({_LINE}, log, batch, place, attributes) from stdin"
_BATCH = ", ".join(Batch.__slots__)
_HOLES = ", ".join(["%s"] * len(Batch.__slots__))


class Row(NamedTuple):
    """A stored decision."""

    at: datetime
    decision_id: uuid.UUID
    effect: int
    source: int
    revision: int
    microseconds: int
    attributes_digest: bytes
    caller: str
    subject: str
    domain: str
    resource: str
    action: str
    rule_id: str
    batch: int
    attributes: str | None


_ROW = f"{_LINE}, batch, attributes"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which decisions; empty values pass every one."""

    subject: str = ""
    caller: str = ""
    domain: str = ""
    resource: str = ""
    action: str = ""
    rule_id: str = ""
    effect: int = 0
    start: datetime | None = None
    end: datetime | None = None

    def conditions(self) -> tuple[list[str], list[object]]:
        """Returns conditions and their parameters: only those asked for, so that indexes serve."""
        found: list[str] = []
        values: list[object] = []
        for column in ("subject", "caller", "domain", "action", "rule_id", "effect"):
            if value := getattr(self, column):
                found.append(f"{column} = %s")
                values.append(_text(value) if isinstance(value, str) else value)
        if below := _text(self.resource).rstrip("/"):
            found.append("(resource = %s or starts_with(resource, %s))")
            values += [below, below + "/"]
        if self.start is not None:
            found.append("at >= %s")
            values.append(self.start)
        if self.end is not None:
            found.append("at < %s")
            values.append(self.end)
        return found, values


@asynccontextmanager
async def writing(database: Database) -> AsyncIterator[Connection]:
    """A transaction to write in; whatever Postgres says against it is `Unavailable`, and tried
    again later: a log that cannot be written is the same, whatever the reason."""
    try:
        async with database.transaction() as connection:
            yield connection
    except psycopg.Error as error:
        raise Unavailable(
            "DATABASE_UNAVAILABLE", f"the decision log was not written: {error}"
        ) from error


async def make_partitions(connection: Connection, first: date, last: date) -> None:
    """Makes sure that every day from `first` to `last` has its partitions."""
    await connection.execute("select aegis.make_decision_partitions(%s, %s)", (first, last))


async def drop_partitions(connection: Connection, before: date) -> list[tuple[date, int, int]]:
    """Drops the days before one; returns each with its batches and decisions."""
    cursor = await connection.execute(
        "select day, batches, decisions from aegis.drop_decision_partitions(%s)", (before,)
    )
    return [(day, batches, int(decisions)) for day, batches, decisions in await cursor.fetchall()]


async def batch_at(connection: Connection, log: uuid.UUID, number: int) -> Batch | None:
    """Returns a batch, or None: after a lost connection only this tells whether it was written."""
    async with connection.cursor(row_factory=class_row(Batch)) as cursor:
        await cursor.execute(
            f"select {_BATCH} from aegis.decision_batch where log = %s and number = %s",  # noqa: S608
            (log, number),
        )
        return await cursor.fetchone()


async def claim(connection: Connection, reported: Sequence[tuple[str, datetime]]) -> set[str]:
    """Returns those reported decisions that were not taken before. Now they are.

    Waits for another server that takes the same ones at this moment; in the order of their ids,
    so that two never wait for each other.
    """
    reported = sorted(reported)
    cursor = await connection.execute(
        """
        insert into aegis.decision_reported (decision_id, at)
        select * from unnest(%s::uuid[], %s::timestamptz[])
        on conflict do nothing returning decision_id
        """,
        ([decision_id for decision_id, _ in reported], [at for _, at in reported]),
    )
    return {str(decision_id) for (decision_id,) in await cursor.fetchall()}


async def append(connection: Connection, batch: Batch, lines: Sequence[Line]) -> None:
    """Stores a batch and its rows."""
    tail = f"\t{batch.log}\t{batch.number}\t"
    if any(line.attributes is not None for line in lines):
        statement = _COPY_KEEPING
        text = "".join(
            f"{line.text}{tail}{place}\t{_copied(line.attributes)}\n"
            for place, line in enumerate(lines)
        )
    else:
        statement = _COPY
        text = "".join(f"{line.text}{tail}{place}\n" for place, line in enumerate(lines))
    async with connection.cursor() as cursor:
        if lines:
            async with cursor.copy(statement) as copy:
                await copy.write(text)
        await cursor.execute(
            f"insert into aegis.decision_batch ({_BATCH}) values ({_HOLES})",  # noqa: S608
            [getattr(batch, name) for name in Batch.__slots__],
        )


async def uncommitted(connection: Connection, log: uuid.UUID) -> list[Batch]:
    """Returns the batches of a log that no audit record speaks of yet, in order."""
    async with connection.cursor(row_factory=class_row(Batch)) as cursor:
        await cursor.execute(
            f"""
            select {_BATCH} from aegis.decision_batch
            where log = %(log)s and number > (
                select coalesce(max(last_batch), 0) from aegis.decision_commitment
                where log = %(log)s
            )
            order by number limit 10000
            """,  # noqa: S608
            {"log": log},
        )
        return await cursor.fetchall()


async def left_behind(
    connection: Connection, *, before: datetime, after: datetime
) -> list[uuid.UUID]:
    """Returns logs with batches that nobody committed to: of servers that crashed."""
    cursor = await connection.execute(
        """
        select b.log from aegis.decision_batch b
        where b.at >= %s and b.at < %s
        group by b.log
        having max(b.number) > coalesce(
            (select max(c.last_batch) from aegis.decision_commitment c where c.log = b.log), 0)
        """,
        (after, before),
    )
    return [log for (log,) in await cursor.fetchall()]


async def commit_to(connection: Connection, batches: Sequence[Batch], now: datetime) -> bool:
    """Notes that a record speaks of these batches; False when somebody else did so already."""
    cursor = await connection.execute(
        """
        insert into aegis.decision_commitment (log, first_batch, last_batch, at)
        values (%s, %s, %s, %s) on conflict do nothing
        """,
        (batches[0].log, batches[0].number, batches[-1].number, now),
    )
    return cursor.rowcount == 1


async def newest(
    connection: Connection,
    chosen: Filter,
    *,
    limit: int,
    before: tuple[datetime, uuid.UUID] | None = None,
) -> list[Row]:
    """Returns the newest decisions that pass the filter, older than `before`."""
    conditions, values = chosen.conditions()
    if before is not None:
        conditions.append("(at, decision_id) < (%s, %s)")
        values += before
    return await _rows(connection, conditions, values, "at desc, decision_id desc", limit)


async def oldest(
    connection: Connection,
    chosen: Filter,
    *,
    limit: int,
    after: tuple[datetime, uuid.UUID] | None = None,
    one_in: int = 1,
) -> list[Row]:
    """Returns decisions in their order behind `after`, one in so many, chosen by their ids."""
    conditions, values = chosen.conditions()
    if after is not None:
        conditions.append("(at, decision_id) > (%s, %s)")
        values += after
    if one_in > 1:
        # The first 32 bits of SHA-256 over the id's 16 bytes: anybody can say who is in a sample.
        conditions.append(
            "('x' || encode(substr(sha256(uuid_send(decision_id)), 1, 4), 'hex'))"
            "::bit(32)::bigint %% %s = 0"
        )
        values.append(one_in)
    return await _rows(connection, conditions, values, "at, decision_id", limit)


async def _rows(
    connection: Connection, conditions: list[str], values: list[object], order: str, limit: int
) -> list[Row]:
    where = f"where {' and '.join(conditions)}" if conditions else ""
    cursor = await connection.execute(
        f"select {_ROW} from aegis.decision {where} order by {order} limit %s".encode(),  # noqa: S608
        [*values, limit],
    )
    return [Row(*row) for row in await cursor.fetchall()]


async def erase_attributes(connection: Connection, subject: str, *, before: datetime) -> int:
    """Erases the attributes of a subject's decisions; returns of how many. Their digests stay."""
    cursor = await connection.execute(
        """
        update aegis.decision set attributes = null
        where subject = %s and at < %s and attributes is not null
        """,
        (subject, before),
    )
    return cursor.rowcount


# What verification reads.


async def logs(connection: Connection) -> list[uuid.UUID]:
    """Returns every log that has batches; from one to the next by the index."""
    cursor = await connection.execute(
        """
        with recursive each as (
            (select log from aegis.decision_batch order by log limit 1)
            union all
            select (select b.log from aegis.decision_batch b where b.log > each.log
                    order by b.log limit 1)
            from each where each.log is not null
        )
        select log from each where log is not null
        """
    )
    return [log for (log,) in await cursor.fetchall()]


async def batches(connection: Connection, log: uuid.UUID, *, after: int, limit: int) -> list[Batch]:
    """Returns batches of a log in order."""
    async with connection.cursor(row_factory=class_row(Batch)) as cursor:
        await cursor.execute(
            f"""
            select {_BATCH} from aegis.decision_batch
            where log = %s and number > %s order by number limit %s
            """,  # noqa: S608
            (log, after, limit),
        )
        return await cursor.fetchall()


async def rows_of(connection: Connection, some: Sequence[Batch]) -> list[Row]:
    """Returns the rows of successive batches of a log, in the order they were written."""
    cursor = await connection.execute(
        f"""
        select {_ROW} from aegis.decision
        where log = %s and batch between %s and %s and at between %s and %s
        order by batch, place
        """,  # noqa: S608
        (
            some[0].log,
            some[0].number,
            some[-1].number,
            min(batch.first_at for batch in some),
            max(batch.at for batch in some),
        ),
    )
    return [Row(*row) for row in await cursor.fetchall()]


async def strays(connection: Connection) -> list[tuple[date, int]]:
    """Returns how many rows of which days belong to no batch; takes as long as it takes."""
    await connection.execute("set local statement_timeout = 0")
    cursor = await connection.execute(
        """
        select (d.at at time zone 'UTC')::date, count(*) from aegis.decision d
        where not exists (
            select from aegis.decision_batch b where b.log = d.log and b.number = d.batch
        )
        group by 1 order by 1
        """
    )
    return [(day, count) for day, count in await cursor.fetchall()]


def _copied(attributes: str | None) -> str:
    return "\\N" if attributes is None else escaped(attributes)


def _text(value: str) -> str:
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
