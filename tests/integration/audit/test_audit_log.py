"""The audit log on real Postgres: appended in order, refused to change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import psycopg
import pytest
from tests.auditing import Written, chained, entry

from aegis.audit.merkle import root_of
from aegis.errors import Unavailable
from aegis.serving.auditlog import AuditLog
from aegis.serving.auditlog.store import Filter
from aegis.serving.database import Database, read_migrations
from aegis.v1 import audit_pb2
from aegis_server.migrating import migrate


@pytest.fixture
async def audit(database: Database) -> AsyncIterator[AuditLog]:
    log = AuditLog(database, log_id="test", clock=lambda: datetime.now(UTC))
    task = asyncio.create_task(log.run())
    yield log
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_concurrent_records_form_one_intact_chain(database: Database, audit: AuditLog):
    """Records written alone and inside transactions get one order without holes."""

    async def alone(number: int) -> None:
        await audit.record(entry(subject_id=f"alone-{number}"))

    async def with_a_deed(number: int) -> None:
        async with database.transaction() as connection:
            await audit.record_in(connection, entry(subject_id=f"deed-{number}"), entry())

    await asyncio.gather(*(alone(n) for n in range(60)), *(with_a_deed(n) for n in range(20)))
    assert chained(await Written(database).stored()) == 100


async def test_record_of_a_deed_that_fails_is_not_there(database: Database, audit: AuditLog):
    """A rolled back transaction takes its record with it and leaves no hole."""
    with pytest.raises(RuntimeError, match="deed failed"):
        async with database.transaction() as connection:
            await audit.record_in(connection, entry("applied"))
            raise RuntimeError("deed failed")
    await audit.record(entry())
    records = await Written(database).stored()
    assert [audit_pb2.AuditRecord.FromString(r.record).outcome for r in records] == ["allow"]


@pytest.mark.parametrize(
    "statement",
    [
        "update aegis.audit_record set record = ''",
        "delete from aegis.audit_record",
        "truncate aegis.audit_record",
        "update aegis.audit_index set actor = 'user:bob'",
        "delete from aegis.audit_index",
        "truncate aegis.audit_index",
        "update aegis.audit_attachment set content = ''",
        "truncate aegis.audit_attachment",
        "update aegis.audit_checkpoint set note = ''",
        "delete from aegis.audit_checkpoint",
        "truncate aegis.audit_checkpoint cascade",
        "update aegis.audit_cosignature set line = ''",
        "delete from aegis.audit_cosignature",
        "truncate aegis.audit_cosignature",
    ],
)
async def test_database_refuses_to_change_the_log(
    database_url: str, database: Database, statement: str
):
    """Even the owner's UPDATE, DELETE and TRUNCATE are refused, and with triggers bypassed too."""
    log = Written(database)
    await log.write(entry(attachments={"reason": b"because"}))
    log.clock.move(seconds=10)
    cut = await log.kept.cut_if_due()
    assert cut is not None
    async with database.transaction() as connection:
        await log.kept.store.add_cosignature(connection, cut.number, "w", "line", log.clock())
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        with pytest.raises(psycopg.errors.RestrictViolation):
            await connection.execute(statement)
        await connection.rollback()
        await connection.execute("set session_replication_role = replica")
        with pytest.raises(psycopg.errors.RestrictViolation):
            await connection.execute(statement)


@pytest.mark.parametrize("verb", ["update", "delete", "truncate"])
@pytest.mark.parametrize("table", ["record", "index", "checkpoint", "cosignature"])
async def test_server_role_has_no_right_to_change_the_log(
    database: Database, server_database_url: str, table: str, verb: str
):
    """The role the server runs as may add and read, nothing else."""
    async with await psycopg.AsyncConnection.connect(server_database_url) as connection:
        cursor = await connection.execute(
            "select has_table_privilege(%s, %s)", (f"aegis.audit_{table}", verb)
        )
        assert await cursor.fetchone() == (False,)


async def test_forked_record_is_a_constraint_violation(database_url: str, audit: AuditLog):
    """Two records cannot follow the same one."""
    await audit.record(entry())
    await audit.record(entry())
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        with pytest.raises(psycopg.errors.UniqueViolation):
            await connection.execute(
                "insert into aegis.audit_record select 2, at, kind, subject_id, record, leaf_hash,"
                " prev_chain_hash, sha256(chain_hash) from aegis.audit_record where idx = 1"
            )


async def test_two_sequencers_on_one_database_never_fork(database: Database):
    """Replicas take turns; each continues the tree the other one left."""
    one, other = Written(database), Written(database)
    for number in range(40):
        await asyncio.gather(*(log.write(entry(subject_id=f"{number}")) for log in (one, other)))
    stored = await one.stored()
    assert chained(stored) == 80
    assert (await one.audit.state())[:2] == (80, root_of(each.leaf_hash for each in stored))


async def test_log_of_an_older_version_gets_its_index(database: Database, database_url: str):
    """Records from before the index are found and proven like all others, and the chain goes on."""
    log = Written(database)
    await log.write(*(entry(actor=f"user:u{number}") for number in range(37)))
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute("alter table aegis.audit_index disable trigger all")
        await connection.execute("delete from aegis.audit_index where idx >= 5")
        await connection.commit()
    again = Written(database)
    await again.write(entry(actor="user:last"))
    stored = await again.stored()
    assert (await again.audit.state())[:2] == (38, root_of(each.leaf_hash for each in stored))
    async with database.transaction() as connection:
        found = await again.audit.store.page_before(
            connection, before=100, limit=10, chosen=Filter(actor="user:u20")
        )
    assert [index for index, _ in found] == [20]


async def test_rolled_back_deed_does_not_disturb_the_tree(database: Database):
    """What this process computed for records that never came is forgotten."""
    log = Written(database)
    await log.write(entry())
    with pytest.raises(RuntimeError):
        async with database.transaction() as connection:
            await log.audit.record_in(connection, entry(), entry(), entry())
            raise RuntimeError("deed failed")
    await log.write(entry(), entry())
    stored = await log.stored()
    assert (await log.audit.state())[:2] == (3, root_of(each.leaf_hash for each in stored))


async def test_unwritable_log_refuses_instead_of_forgetting():
    """When the database is away, `record` says so."""
    away = Database("host=/nonexistent dbname=aegis", application="test")
    log = AuditLog(away, log_id="test", clock=lambda: datetime.now(UTC))
    task = asyncio.create_task(log.run())
    with pytest.raises(Unavailable) as refusal:
        await log.record(entry())
    assert refusal.value.reason == "AUDIT_UNAVAILABLE"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await away.close()


async def test_four_programs_migrate_at_once(database_url: str):
    """Whatever one of them applies, the others find done."""
    at_once = await asyncio.gather(*(migrate(database_url) for _ in range(4)))
    applied = [name for each in at_once for name in each]
    assert len(applied) == len(set(applied)) == len(read_migrations("aegis_server")) + 1


async def test_edited_migration_is_refused(database_url: str):
    """A file that was applied must never change."""
    await migrate(database_url)
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute("update aegis.schema_migration set sha256 = 'x' where version = 1")
    with pytest.raises(RuntimeError, match="0001 of schema aegis was edited"):
        await migrate(database_url)


async def test_newer_database_is_refused(database_url: str):
    """An old program does not touch what a newer one wrote."""
    await migrate(database_url)
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute(
            "insert into aegis.schema_migration (version, name, sha256) values (9999, 'x', 'x')"
        )
    with pytest.raises(RuntimeError, match="newer Aegis"):
        await migrate(database_url)
