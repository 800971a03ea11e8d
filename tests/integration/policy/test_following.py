"""Hearing of revisions: at once, and again after the connection was lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import psycopg
import pytest
from tests.integration.policy.rooms import Room
from tests.integration.policy.test_policy_room import ANN_READS, RULES, WITHOUT_ANN

from aegis.errors import Unavailable
from aegis_server.policy.following import Following

LISTENING = "select pid from pg_stat_activity where application_name = 'aegis-server-following'"


@pytest.fixture
async def other(server: Room, server_database_url: str) -> AsyncIterator[Room]:
    """A second server that never polls and only listens."""
    room = Room(server.database)
    await room.decisions.open()
    following = asyncio.create_task(Following(server_database_url, room.decisions.refresh).run())
    yield room
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def heard(room: Room, *, allowed: bool) -> float:
    """Seconds until a server that is only told decides so."""
    began = time.monotonic()
    async with asyncio.timeout(10):
        while (await room.decisions.decide(ANN_READS)).allowed is not allowed:
            await asyncio.sleep(0.005)
    return time.monotonic() - began


async def listener(database_url: str, but: int = 0) -> int:
    """The process that serves the listening connection, once there is one."""
    async with asyncio.timeout(10):
        while True:
            with psycopg.connect(database_url) as connection:
                rows = connection.execute(LISTENING).fetchall()
            if rows and rows[0][0] != but:
                return int(rows[0][0])
            await asyncio.sleep(0.02)


async def test_edit_is_heard_within_a_second(server: Room, other: Room, database_url: str):
    """A server that does not poll decides by an edit made on another one."""
    await listener(database_url)
    await server.import_(RULES)
    assert await heard(other, allowed=True) < 1
    await server.import_(WITHOUT_ANN)
    assert await heard(other, allowed=False) < 1


async def test_killed_connection_is_made_again_and_misses_nothing(
    server: Room, other: Room, database_url: str
):
    """What was committed while it was away is looked up when it is back."""
    first = await listener(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(%s)", (first,))
    await server.import_(RULES)
    assert await heard(other, allowed=True) < 5
    assert await listener(database_url, but=first) != first
    await server.import_(WITHOUT_ANN)
    assert await heard(other, allowed=False) < 1


async def test_news_that_cannot_be_followed_do_not_end_the_listening(
    server: Room, server_database_url: str
):
    """An error behind the news is the poll's to repair; the next news come all the same."""
    calls = 0

    async def on_news() -> None:
        nonlocal calls
        calls += 1
        raise Unavailable("DATABASE_UNAVAILABLE", "away")

    following = asyncio.create_task(Following(server_database_url, on_news).run())
    async with asyncio.timeout(10):
        while calls < 1:
            await asyncio.sleep(0.01)
        await server.import_(RULES)
        while calls < 2:
            await asyncio.sleep(0.01)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_server_starts_while_postgres_is_away(caplog: pytest.LogCaptureFixture):
    """Without a database it keeps trying and ends when it is told to."""

    async def on_news() -> None:
        raise AssertionError("there is no news")

    away = Following("postgresql://nobody@/nothing?host=/nowhere", on_news)
    following = asyncio.create_task(away.run())
    await asyncio.sleep(0.5)
    assert not following.done()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
