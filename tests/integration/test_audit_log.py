"""The audit log on real Postgres: appended in order, refused to change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import psycopg
import pytest

from aegis.audit import chain as auditchain
from aegis.errors import Unavailable
from aegis.serving.database import Database, migrate
from aegis.v1 import audit_pb2
from aegis_server.audit import store
from aegis_server.audit.log import AuditLog, Entry


def entry(outcome: str = "allow", **fields: object) -> Entry:
    values = {
        "kind": audit_pb2.AUDIT_KIND_DECISION,
        "actor": "user:alice",
        "action": "read",
        "resource": "/policy",
        "outcome": outcome,
    } | fields
    return Entry(**values)  # type: ignore[arg-type]


@pytest.fixture
async def database(database_url: str, server_database_url: str) -> AsyncIterator[Database]:
    await migrate(database_url, "aegis_server", "aegis")
    opened = Database(server_database_url, application="test")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def audit(database: Database) -> AsyncIterator[AuditLog]:
    log = AuditLog(database, log_id="test", clock=lambda: datetime.now(UTC))
    task = asyncio.create_task(log.run())
    yield log
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def exported(database: Database) -> list[audit_pb2.StoredAuditRecord]:
    async with database.transaction() as connection:
        rows = await store.stored_from(connection, start=0, limit=10_000)
    return [
        audit_pb2.StoredAuditRecord(
            record=record, leaf_hash=leaf, prev_chain_hash=previous, chain_hash=chained
        )
        for _, record, leaf, previous, chained in rows
    ]


async def test_concurrent_records_form_one_intact_chain(database: Database, audit: AuditLog):
    """Records written alone and inside transactions get one order without holes."""

    async def alone(number: int) -> None:
        await audit.record(entry(subject_id=f"alone-{number}"))

    async def with_a_deed(number: int) -> None:
        async with database.transaction() as connection:
            await audit.record_in(connection, entry(subject_id=f"deed-{number}"), entry())

    await asyncio.gather(*(alone(n) for n in range(60)), *(with_a_deed(n) for n in range(20)))
    result = auditchain.verify(await exported(database))
    assert (result.intact, result.records) == (True, 100)


async def test_record_of_a_deed_that_fails_is_not_there(database: Database, audit: AuditLog):
    """A rolled back transaction takes its record with it and leaves no hole."""
    with pytest.raises(RuntimeError, match="deed failed"):
        async with database.transaction() as connection:
            await audit.record_in(connection, entry("applied"))
            raise RuntimeError("deed failed")
    await audit.record(entry())
    records = await exported(database)
    assert [audit_pb2.AuditRecord.FromString(r.record).outcome for r in records] == ["allow"]


@pytest.mark.parametrize(
    "statement",
    [
        "update aegis.audit_record set record = ''",
        "delete from aegis.audit_record",
        "truncate aegis.audit_record",
    ],
)
async def test_database_refuses_to_change_the_log(
    database_url: str, audit: AuditLog, statement: str
):
    """Even the owner's UPDATE, DELETE and TRUNCATE are refused, and with triggers bypassed too."""
    await audit.record(entry())
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        with pytest.raises(psycopg.errors.RestrictViolation):
            await connection.execute(statement)
        await connection.rollback()
        await connection.execute("set session_replication_role = replica")
        with pytest.raises(psycopg.errors.RestrictViolation):
            await connection.execute(statement)


@pytest.mark.parametrize("verb", ["update", "delete", "truncate"])
async def test_server_role_has_no_right_to_change_the_log(
    database: Database, server_database_url: str, verb: str
):
    """The role the server runs as may add and read, nothing else."""
    async with await psycopg.AsyncConnection.connect(server_database_url) as connection:
        cursor = await connection.execute(
            "select has_table_privilege('aegis.audit_record', %s)", (verb,)
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
    """One applies, the others find nothing to do."""
    applied = await asyncio.gather(
        *(migrate(database_url, "aegis_server", "aegis") for _ in range(4))
    )
    assert sorted(map(bool, applied)) == [False, False, False, True]


async def test_edited_migration_is_refused(database_url: str):
    """A file that was applied must never change."""
    await migrate(database_url, "aegis_server", "aegis")
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute("update aegis.schema_migration set sha256 = 'x' where version = 1")
    with pytest.raises(RuntimeError, match="0001 of schema aegis was edited"):
        await migrate(database_url, "aegis_server", "aegis")


async def test_newer_database_is_refused(database_url: str):
    """An old program does not touch what a newer one wrote."""
    await migrate(database_url, "aegis_server", "aegis")
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute(
            "insert into aegis.schema_migration (version, name, sha256) values (9999, 'x', 'x')"
        )
    with pytest.raises(RuntimeError, match="newer Aegis"):
        await migrate(database_url, "aegis_server", "aegis")
