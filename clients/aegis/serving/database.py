"""Postgres: a pool, transactions, and forward-only migrations.

SQL carries the concurrency of Aegis; Python only asks. `psycopg` errors that mean "away" become
`Unavailable` here, so that no store has to know them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import select
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeAlias

import psycopg
from psycopg import sql
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from aegis.errors import Unavailable

log = logging.getLogger(__name__)

Connection: TypeAlias = "psycopg.AsyncConnection[tuple[Any, ...]]"

_ACQUIRE_SECONDS = 5.0
_PING_SECONDS = 10.0
# A network that only swallows would keep a statement waiting for ever: its own limit is told by the
# server, who cannot be heard. Over a socket of this machine these mean nothing.
ALIVE: dict[str, Any] = {
    "connect_timeout": int(_ACQUIRE_SECONDS),
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
# Somebody took away what we stand on: nothing can be claimed, and nothing was.
_MISSING = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedTable,
)
_MIGRATION_LOCK = 0x61656769  # "aegi"


class Database:
    """A pool of connections to one Postgres database."""

    def __init__(self, url: str, *, application: str, max_size: int = 10) -> None:
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=max_size,
            open=False,
            timeout=_ACQUIRE_SECONDS,
            kwargs={
                **ALIVE,
                "application_name": application,
                "options": "-c statement_timeout=15000 -c timezone=UTC",
            },
            check=_check_if_suspect,
        )

    async def open(self) -> None:
        """Connects; raises `Unavailable` when Postgres does not answer in time."""
        async with _translated():
            await self._pool.open(wait=True, timeout=_ACQUIRE_SECONDS)

    async def close(self) -> None:
        """Closes every connection."""
        await self._pool.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lends a connection with an open transaction; commits at the end, or rolls back.

        Raises `Unavailable` (DATABASE_UNAVAILABLE) when Postgres cannot be reached.
        """
        cancelled = _cancellations()
        async with _translated(), self._pool.connection() as connection:
            yield connection
            cancelled()
        cancelled()


def _cancellations() -> Callable[[], None]:
    """Returns what raises a cancellation that came meanwhile and was lost.

    psycopg waits in asyncio.wait_for, which on Python 3.11 swallows a cancellation that comes at
    the moment of the answer: a part would go on for ever, and the program never end.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0

    def check() -> None:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError

    return check


async def _check_if_suspect(connection: Connection) -> None:
    """Makes sure a connection still lives, without a round trip when nothing speaks against it.

    Nobody talks to an idle connection but a server that ends it: something to read is suspect.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        await AsyncConnectionPool.check_connection(connection)


async def listen(url: str, channel: str, *, application: str) -> AsyncGenerator[str, None]:
    """Yields an empty text once it listens, then what others notify, over a connection of its own.

    A connection of the pool would be lost to everybody else. Raises `Unavailable`
    (DATABASE_UNAVAILABLE) when Postgres cannot be reached any more, which is asked for when
    nothing comes for a while: a connection whose other end vanished is silent, too.
    """
    async with _translated():
        connection = await psycopg.AsyncConnection.connect(
            url,
            autocommit=True,
            application_name=application,
            connect_timeout=int(_ACQUIRE_SECONDS),
        )
        async with connection:
            await connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
            yield ""
            while True:
                async for notification in connection.notifies(timeout=_PING_SECONDS):
                    yield notification.payload
                try:
                    async with asyncio.timeout(_ACQUIRE_SECONDS):
                        await connection.execute("select")
                except TimeoutError as error:
                    raise psycopg.OperationalError("no answer") from error


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
        raise Unavailable("DATABASE_UNAVAILABLE", "the database cannot be reached") from error
    except _MISSING as error:
        log.warning("the database is not as it was migrated: %s", error.diag.message_primary)
        raise Unavailable("DATABASE_UNAVAILABLE", "the database lacks what is needed") from error


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file."""

    version: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Digest of the file; an applied file must never change."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_migrations(package: str) -> list[Migration]:
    """Reads `migrations/NNNN_name.sql` of a package, in order."""
    found = []
    for entry in (resources.files(package) / "migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_([a-z0-9_]+)\.sql", entry.name)
        if match:
            found.append(Migration(int(match[1]), match[2], entry.read_text()))
    return sorted(found, key=lambda migration: migration.version)


async def migrate(url: str, package: str, schema: str) -> list[str]:
    """Brings `schema` up to the package's migrations; returns the names it applied.

    One transaction a file, under an advisory lock, so any number of programs may start at once.
    Raises RuntimeError when an applied file was edited or the database is newer than the program.
    """
    migrations = read_migrations(package)
    applied_now = []
    async with _translated(), await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("select pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        applied = await _applied(connection, schema)
        _refuse_surprises(applied, migrations, schema)
        for migration in migrations:
            if migration.version not in applied:
                await _apply(connection, migration, schema)
                applied_now.append(f"{migration.version:04d}_{migration.name}")
    return applied_now


async def require_migrated(url: str, package: str, schema: str) -> None:
    """Raises RuntimeError unless `schema` is exactly what the package's migrations make.

    For a program whose role may not change the schema, and should not try.
    """
    known = read_migrations(package)
    async with _translated(), await psycopg.AsyncConnection.connect(url) as connection:
        try:
            cursor = await connection.execute(_VERSIONS.format(_table_of(schema)))
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege) as error:
            raise RuntimeError(
                f"schema {schema} is not there, or not ours: migrate first"
            ) from error
        applied = {int(version): str(sha256) for version, sha256 in await cursor.fetchall()}
    _refuse_surprises(applied, known, schema)
    missing = [each for each in known if each.version not in applied]
    if missing:
        raise RuntimeError(
            f"schema {schema} lacks migration {missing[0].version:04d}_{missing[0].name}:"
            " migrate first"
        )


_VERSIONS = sql.SQL("select version, sha256 from {}")


def _table_of(schema: str) -> sql.Identifier:
    return sql.Identifier(schema, "schema_migration")


async def _applied(connection: Connection, schema: str) -> dict[int, str]:
    """Returns version and digest of what was applied; makes schema and table when there are none.

    A program that owns its schema need not be allowed to create schemas.
    """
    cursor = await connection.execute("select to_regnamespace(%s) is null", (schema,))
    if await cursor.fetchone() == (True,):
        await connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    await connection.execute(
        sql.SQL(
            "create table if not exists {} (version int primary key, name text not null,"
            " sha256 text not null, applied_at timestamptz not null default now())"
        ).format(_table_of(schema))
    )
    cursor = await connection.execute(_VERSIONS.format(_table_of(schema)))
    found = {int(version): str(sha256) for version, sha256 in await cursor.fetchall()}
    await connection.commit()
    return found


async def _apply(connection: Connection, migration: Migration, schema: str) -> None:
    async with connection.transaction():
        await connection.execute(migration.text.encode())
        await connection.execute(
            sql.SQL("insert into {} (version, name, sha256) values (%s, %s, %s)").format(
                _table_of(schema)
            ),
            (migration.version, migration.name, migration.sha256),
        )


def _refuse_surprises(applied: dict[int, str], known: list[Migration], schema: str) -> None:
    digests = {migration.version: migration.sha256 for migration in known}
    for version, sha256 in applied.items():
        if version not in digests:
            raise RuntimeError(
                f"schema {schema} has migration {version:04d}, which this program does not know:"
                " it was written by a newer Aegis"
            )
        if digests[version] != sha256:
            raise RuntimeError(f"migration {version:04d} of schema {schema} was edited")
