"""Whoever changes the stored log contradicts its chain, or the audit log."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import timedelta

import psycopg
import pytest
from tests.integration.policy.decisionlog.logs import Logging, now, stored

from aegis.serving.database import Database
from aegis_server.policy.decisionlog import store
from aegis_server.policy.decisionlog.verification import verify

TAMPERING = {
    "edited": "update aegis.decision set effect = 1 where subject = 'user:mallory'",
    "moved in time": "update aegis.decision set at = at - interval '1 minute' where place = 1",
    "deleted": "delete from aegis.decision where subject = 'user:mallory'",
    "reordered": "update aegis.decision set place = 1 - place where batch = 1 and place < 2",
    "added to a batch": """
        insert into aegis.decision select (d).* from (select d from aegis.decision d limit 1) as x
    """,
    "added beside": """
        insert into aegis.decision select (d).* from (
            select jsonb_populate_record(d, '{"batch": 77}') as d from aegis.decision d limit 1
        ) as x
    """,
    "attributes exchanged": """
        update aegis.decision set attributes = '{"replicas":300.0}' where attributes is not null
    """,
    "batch edited": "update aegis.decision_batch set unrecorded = 0 where number = 1",
    "counts edited": "update aegis.decision_batch set tally = replace(tally, '1', '2')",
    "first batch deleted": """
        delete from aegis.decision where batch = 1;
        delete from aegis.decision_batch where number = 1
    """,
    "middle batch deleted": """
        delete from aegis.decision where batch = 2;
        delete from aegis.decision_batch where number = 2
    """,
    "last batch deleted": """
        delete from aegis.decision where batch = 3;
        delete from aegis.decision_batch where number = 3
    """,
    "all deleted": "delete from aegis.decision; delete from aegis.decision_batch",
    "chain recomputed without the audit log": """
        update aegis.decision_batch set chain = sha256(chain) where number = 3
    """,
}


@pytest.fixture
async def written(database: Database) -> Logging:
    """Three batches: the first tells of a gap, the second has attributes."""
    logging = Logging(database, {"keep_attributes": True, "capacity": 4})
    for subject in ("user:ann", "user:bob", "user:eve", "user:mallory", "user:lost"):
        logging.note(subject=subject, allowed=False)
    await logging.log._gather()
    await logging.log._writer.write_all()
    for attributes in ({"replicas": 3.0}, {}):
        logging.note(attributes=attributes)
        await logging.log._gather()
        await logging.log._writer.write_all()
    await logging.log._commitment.commit()
    return logging


async def test_what_nobody_touched_is_as_it_was_written(written: Logging, database: Database):
    """All is counted and nothing is wrong."""
    found = await verify(database)
    assert (found.decisions, found.batches, found.commitments) == (6, 3, 1)
    assert (found.unrecorded, found.open_batches, found.problems) == (1, 0, [])


@pytest.mark.parametrize("how", TAMPERING)
async def test_tampering_is_found(
    written: Logging, database: Database, owner: psycopg.AsyncConnection, how: str
):
    """By the owner of the tables, who can switch triggers off."""
    await owner.execute(
        "do $$ declare t regclass; begin for t in select inhrelid::regclass from pg_inherits i"
        " join pg_class c on c.oid = i.inhrelid where c.relkind = 'r'"
        " union select unnest(array['aegis.decision', 'aegis.decision_batch']::regclass[]) loop"
        " execute format('alter table %s disable trigger user', t); end loop; end $$"
    )
    before = await stored(database)
    await owner.execute(TAMPERING[how].encode())
    assert (await verify(database)).problems, before


async def test_erased_attributes_break_nothing(written: Logging, database: Database):
    """Personal data may go: the chain holds their digest."""
    async with database.transaction() as connection:
        assert await store.erase_attributes(connection, "user:ann", before=now()) == 1
    assert [row.attributes for row in await stored(database)] == [None] * 6
    assert (await verify(database)).problems == []


REFUSED = [
    "update aegis.decision set effect = 1",
    "update aegis.decision set attributes = '{}'",
    "update aegis.decision set attributes = null, effect = 1",
    "delete from aegis.decision",
    "truncate aegis.decision",
    "update aegis.decision_batch set unrecorded = 0",
    "delete from aegis.decision_batch",
    "update aegis.decision_commitment set last_batch = 99",
    "delete from aegis.decision_commitment",
    "delete from aegis.decision_reported",
    "drop table aegis.decision",
    "select * from aegis.decision_{today}",
    "delete from aegis.decision_{today}",
    "truncate aegis.decision_batch_{today}",
    "select aegis.drop_decision_partitions(current_date)",
    "select aegis.drop_decision_partitions(current_date + 1)",
]


@pytest.mark.parametrize("statement", REFUSED)
async def test_server_role_may_not(written: Logging, server_database_url: str, statement: str):
    """What was decided is not for the server to change, nor for whoever broke into it."""
    statement = statement.replace("{today}", f"{now():%Y%m%d}")
    async with await psycopg.AsyncConnection.connect(server_database_url) as connection:
        with pytest.raises(
            (psycopg.errors.InsufficientPrivilege, psycopg.errors.RestrictViolation)
        ):
            await connection.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "update aegis.decision set effect = 1",
        "delete from aegis.decision",
        "truncate aegis.decision",
        "truncate aegis.decision_{today}",
        "set session_replication_role = replica; delete from aegis.decision_batch_{today}",
    ],
)
async def test_owner_has_to_switch_triggers_off_first(
    written: Logging, owner: psycopg.AsyncConnection, statement: str
):
    """An accident of the owner is stopped too."""
    with pytest.raises(psycopg.errors.RestrictViolation):
        await owner.execute(statement.replace("{today}", f"{now():%Y%m%d}").encode())


async def test_decision_of_yesterday_in_a_batch_of_today_verifies(
    logging: Logging, database: Database
):
    """Its row is in another partition than the batch."""
    await logging.write(logging.entry(at=now() - timedelta(hours=23)))
    assert (await verify(database)).problems == []


def run_program(url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aegis_server.policy.decisionlog"]
    environment = {**os.environ, "AEGIS_DATABASE_URL": url}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


async def test_program_tells_what_is_broken(
    written: Logging, server_database_url: str, owner: psycopg.AsyncConnection
):
    """Exit status 0, 1 for a log that was changed, 2 when there is none to read."""
    done = await asyncio.to_thread(run_program, server_database_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("6 decisions in 3 batches")
    await owner.execute("alter table aegis.decision_batch disable trigger user")
    await owner.execute("update aegis.decision_batch set replica = 'two' where number = 2")
    done = await asyncio.to_thread(run_program, server_database_url)
    assert (done.returncode, done.stdout[:8]) == (1, "BROKEN  ")
    done = await asyncio.to_thread(run_program, "postgresql://nobody@/nothing?host=/nowhere")
    assert done.returncode == 2
