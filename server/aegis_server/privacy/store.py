"""SQL of the privacy ledger. Nothing in it is ever deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aegis.serving.database import Connection

_LEDGER = 0x6C646772  # "ldgr"


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """A row of aegis.privacy_entry."""

    run_id: str
    dataset: str
    participant: str
    account: int
    simulation: bool
    unit: str
    model: str
    noise_multiplier: float
    sample_rate: float
    clip_norm: float
    delta: float
    steps_reserved: int
    steps: int
    settled: bool
    created_at: datetime
    settled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredSum:
    """What counts of one kind in the current account of a participant."""

    participant: str
    unit: str
    noise_multiplier: float
    sample_rate: float
    steps: int
    open_steps: int
    entries: int


@dataclass(frozen=True, slots=True)
class StoredLimit:
    """A row of aegis.privacy_limit."""

    dataset: str
    participant: str
    epsilon: float
    delta: float
    actor: str
    reason: str
    set_at: datetime


_NAMES = tuple(StoredEntry.__slots__)
_COLUMNS = ", ".join(_NAMES)


async def lock(connection: Connection, dataset: str) -> None:
    """Keeps everybody else from changing a data set's ledger until this transaction ends."""
    await connection.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", (_LEDGER, dataset))


async def sums(connection: Connection, dataset: str) -> list[StoredSum]:
    """Returns what counts now: one row for each participant and kind of step."""
    async with connection.cursor(row_factory=class_row(StoredSum)) as cursor:
        await cursor.execute(
            """
            with current as (
                select participant, max(account) as account
                from aegis.privacy_account where dataset = %(dataset)s group by participant
            )
            select e.participant, e.unit, e.noise_multiplier, e.sample_rate,
                   sum(e.steps)::bigint as steps,
                   coalesce(sum(e.steps) filter (where not e.settled), 0)::bigint as open_steps,
                   count(*) as entries
            from aegis.privacy_entry e left join current c using (participant)
            where e.dataset = %(dataset)s and not e.simulation
                and e.account = coalesce(c.account, 1)
            group by e.participant, e.unit, e.noise_multiplier, e.sample_rate
            order by e.participant, e.noise_multiplier, e.sample_rate, e.unit
            """,
            {"dataset": dataset},
        )
        return await cursor.fetchall()


async def limits(connection: Connection, dataset: str) -> list[StoredLimit]:
    """Returns the newest limit of each participant that has one."""
    async with connection.cursor(row_factory=class_row(StoredLimit)) as cursor:
        await cursor.execute(
            """
            select distinct on (participant)
                   dataset, participant, epsilon, delta, actor, reason, set_at
            from aegis.privacy_limit where dataset = %s order by participant, seq desc
            """,
            (dataset,),
        )
        return await cursor.fetchall()


async def accounts(connection: Connection, dataset: str) -> dict[str, int]:
    """Returns the current account of each participant that was reset."""
    cursor = await connection.execute(
        """
        select participant, max(account) from aegis.privacy_account
        where dataset = %s group by participant
        """,
        (dataset,),
    )
    return dict(await cursor.fetchall())


async def insert(connection: Connection, entries: Sequence[StoredEntry]) -> None:
    """Writes reservations into the ledger."""
    places = ", ".join(f"%({name})s" for name in _NAMES)
    async with connection.cursor() as cursor:
        await cursor.executemany(
            f"insert into aegis.privacy_entry ({_COLUMNS}) values ({places})",  # noqa: S608
            [{name: getattr(entry, name) for name in _NAMES} for entry in entries],
        )


async def dataset_of(connection: Connection, run_id: str) -> str | None:
    """Returns the data set whose ledger has a run's entries."""
    cursor = await connection.execute(
        "select dataset from aegis.privacy_entry where run_id = %s limit 1", (run_id,)
    )
    row = await cursor.fetchone()
    return None if row is None else str(row[0])


async def settle(
    connection: Connection, run_id: str, steps: Mapping[str, int], at: datetime
) -> None:
    """Lowers a run's open entries to what was used; who is not named has used all of it."""
    await connection.execute(
        """
        update aegis.privacy_entry
        set steps = least(steps, coalesce((%(steps)s::jsonb ->> participant)::int, steps)),
            settled = true, settled_at = %(at)s
        where run_id = %(run_id)s and not settled
        """,
        {"run_id": run_id, "steps": Jsonb(dict(steps)), "at": at},
    )


async def entries(
    connection: Connection, dataset: str, *, participant: str, history: bool, limit: int
) -> list[StoredEntry]:
    """Returns entries, newest first: of one participant and of '*', or of all when it is empty.

    With `history`, those of earlier accounts too.
    """
    columns = ", ".join(f"e.{name}" for name in _NAMES)
    async with connection.cursor(row_factory=class_row(StoredEntry)) as cursor:
        await cursor.execute(
            f"""
            with current as (
                select participant, max(account) as account
                from aegis.privacy_account where dataset = %(dataset)s group by participant
            )
            select {columns}
            from aegis.privacy_entry e left join current c using (participant)
            where e.dataset = %(dataset)s
                and (%(participant)s = '' or e.participant in (%(participant)s, '*'))
                and (%(history)s or e.account = coalesce(c.account, 1))
            order by e.created_at desc, e.run_id desc, e.participant limit %(limit)s
            """,  # noqa: S608
            {
                "dataset": dataset,
                "participant": participant,
                "history": history,
                "limit": limit,
            },
        )
        return await cursor.fetchall()


async def open_run(connection: Connection, dataset: str) -> str | None:
    """Returns a run that has reserved something and has not ended."""
    cursor = await connection.execute(
        """
        select run_id from aegis.privacy_entry
        where dataset = %s and not simulation and not settled order by run_id limit 1
        """,
        (dataset,),
    )
    row = await cursor.fetchone()
    return None if row is None else str(row[0])


async def registered(connection: Connection, dataset: str) -> bool:
    """Says whether a data set of that name was registered."""
    cursor = await connection.execute(
        "select exists (select from aegis.dataset where name = %s)", (dataset,)
    )
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def is_participant(connection: Connection, name: str) -> bool:
    """Says whether somebody of that name was ever invited."""
    cursor = await connection.execute(
        "select exists (select from aegis.participant where name = %s)", (name,)
    )
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def set_limit(connection: Connection, limit: StoredLimit) -> None:
    """Adds a limit, which replaces the one before it."""
    await connection.execute(
        """
        insert into aegis.privacy_limit
            (dataset, participant, epsilon, delta, actor, reason, set_at)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (
            limit.dataset,
            limit.participant,
            limit.epsilon,
            limit.delta,
            limit.actor,
            limit.reason,
            limit.set_at,
        ),
    )


async def begin_accounts(
    connection: Connection,
    dataset: str,
    accounts: Mapping[str, int],
    *,
    actor: str,
    reason: str,
    at: datetime,
) -> None:
    """Begins the account of that number for each of these participants."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            insert into aegis.privacy_account
                (dataset, participant, account, actor, reason, begun_at)
            values (%s, %s, %s, %s, %s, %s)
            """,
            [(dataset, name, number, actor, reason, at) for name, number in accounts.items()],
        )
