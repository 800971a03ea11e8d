"""The pool on real Postgres: connections that die while nobody looks."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import psycopg
import pytest

from aegis.errors import Unavailable
from aegis.serving.database import Connection, Database


async def pid_of(connection: Connection) -> int:
    cursor = await connection.execute("select pg_backend_pid()")
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def test_connection_that_died_while_idle_is_not_lent(database_url: str):
    """A server that was restarted costs nobody an error, and a live one no round trip."""
    database = Database(database_url, application="test", max_size=1)
    await database.open()
    async with database.transaction() as connection:
        first = await pid_of(connection)
    async with database.transaction() as connection:
        assert await pid_of(connection) == first
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other:
        await other.execute("select pg_terminate_backend(%s)", (first,))
    await asyncio.sleep(0.1)
    async with database.transaction() as connection:
        assert await pid_of(connection) != first
    await database.close()


async def test_connection_that_dies_in_use_is_unavailable(database_url: str):
    """What cannot be known to be committed is told as UNAVAILABLE, and rolled back."""
    database = Database(database_url, application="test", max_size=1)
    await database.open()
    with pytest.raises(Unavailable) as refusal:
        async with database.transaction() as connection:
            await connection.execute("select pg_terminate_backend(pg_backend_pid())")
    assert refusal.value.reason == "DATABASE_UNAVAILABLE"
    await database.close()


async def test_cancellation_that_a_driver_swallows_is_not_lost(database_url: str):
    """Nothing is committed, and whoever was cancelled ends instead of going on for ever."""
    database = Database(database_url, application="test", max_size=1)
    await database.open()
    async with database.transaction() as connection:
        await connection.execute("create table kept (n int)")
    went_on = False

    async def write() -> None:
        nonlocal went_on
        async with database.transaction() as connection:
            await connection.execute("insert into kept values (1)")
            # As asyncio.wait_for does on Python 3.11 when the answer comes at the same moment.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(5)
        went_on = True

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.3)
    writing.cancel()
    await asyncio.wait([writing], timeout=5)
    assert writing.cancelled()
    assert not went_on
    async with database.transaction() as connection:
        cursor = await connection.execute("select count(*) from kept")
        assert await cursor.fetchone() == (0,)
    await database.close()
