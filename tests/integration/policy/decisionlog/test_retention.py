"""Days are made ahead and dropped as a whole, and the audit log says so."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import psycopg
import pytest
from tests.integration.policy.decisionlog.logs import Logging, audit_records, now, stored

from aegis.serving.database import Database
from aegis_server.policy.decisionlog import Retention
from aegis_server.policy.decisionlog.verification import verify


def retention(logging: Logging, days: int) -> Retention:
    return Retention(logging.database, audit=logging.audit, clock=now, days=days)


async def at(database: Database, when: datetime, count: int) -> None:
    """Some decisions written on another day."""
    logging = Logging(database)
    writer, commitment = logging.log._writer, logging.log._commitment
    writer._clock = commitment._clock = lambda: when
    for _ in range(count):
        logging.note(at=when)
        await logging.log._gather()
        await writer.write_all()
    await commitment.commit()


async def test_only_days_that_are_over_for_long_are_dropped(database: Database):
    """The others stay, the drop is recorded, and what is left still verifies."""
    today = now()
    for days, count in ((40, 3), (31, 2), (30, 2), (1, 1), (0, 1)):
        await at(database, today - timedelta(days=days), count)
    dropped = await retention(Logging(database), 30).drop_old()
    assert dropped == [(today - timedelta(days=days)).date() for days in (40, 31)]
    left = [(today - row.at).days for row in await stored(database)]
    assert left == [30, 30, 1, 0]
    records = [each for each in await audit_records(database) if each.outcome == "dropped"]
    assert [(each.details["day"], each.details["decisions"]) for each in records] == [
        (dropped[0].isoformat(), "3"),
        (dropped[1].isoformat(), "2"),
    ]
    assert (await verify(database)).problems == []
    assert await retention(Logging(database), 30).drop_old() == []


async def test_day_that_was_dropped_without_a_record_is_missing(
    database: Database, owner: psycopg.AsyncConnection
):
    """Retention says what it drops; whoever else drops a day is found."""
    today = now()
    await at(database, today - timedelta(days=3), 2)
    await at(database, today, 1)
    day = f"{today - timedelta(days=3):%Y%m%d}"
    await owner.execute(f"drop table aegis.decision_{day}, aegis.decision_batch_{day}".encode())
    assert (await verify(database)).problems


async def test_log_that_goes_on_over_the_dropped_days_verifies(database: Database):
    """A server that ran for weeks has lost its first batches, and only those."""
    logging = Logging(database)
    writer, commitment = logging.log._writer, logging.log._commitment
    for days in (9, 8, 7, 1, 0):
        when = now() - timedelta(days=days)
        writer._clock = commitment._clock = lambda when=when: when
        logging.note(at=when)
        await logging.log._gather()
        await writer.write_all()
        if days != 8:
            await commitment.commit()
    assert (await verify(database)).problems == []
    assert len(await retention(logging, 8).drop_old()) == 1
    assert (await verify(database)).problems == []
    assert len(await retention(logging, 2).drop_old()) == 2
    found = await verify(database)
    assert (found.problems, found.decisions) == ([], 2)


async def test_partitions_are_made_ahead_by_any_number_of_servers(database: Database):
    """So that the first decision of a day waits for no table."""
    await asyncio.gather(*(retention(Logging(database), 30).make_ahead() for _ in range(4)))
    async with database.transaction() as connection:
        cursor = await connection.execute(
            "select count(*) from pg_inherits where inhparent = 'aegis.decision'::regclass"
        )
        assert await cursor.fetchone() == (3,)


async def test_retention_keeps_yesterday(database: Database):
    """Whatever somebody writes into the settings."""
    with pytest.raises(ValueError, match="yesterday"):
        retention(Logging(database), 0)
    await at(database, now() - timedelta(days=1), 1)
    assert await retention(Logging(database), 1).drop_old() == []


async def test_retention_runs_and_ends(database: Database):
    """As a task of the server."""
    await at(database, now() - timedelta(days=40), 1)
    task = asyncio.create_task(retention(Logging(database), 30).run())
    async with asyncio.timeout(10):
        while await stored(database):
            await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
