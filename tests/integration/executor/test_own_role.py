"""The executor's own role: it reads and adds, and nothing of the server's is its business."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from aegis.errors import AegisError
from aegis.serving.database import migrate, require_migrated
from aegis_server import migrating

SCHEMA = "aegis_executor"


@pytest.fixture
async def migrated(database_url: str) -> None:
    """Both schemas, made by their owner."""
    await migrating.migrate(database_url)
    await migrate(database_url, SCHEMA, SCHEMA)


@pytest.fixture
def executor(migrated: None, executor_database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(executor_database_url, autocommit=True) as connection:
        yield connection


def tables(url: str, schema: str) -> list[str]:
    with psycopg.connect(url) as owner:
        found = owner.execute(
            "select relname from pg_class where relnamespace = %s::regnamespace"
            " and relkind in ('r', 'p') order by relname",
            (schema,),
        ).fetchall()
    return [name for (name,) in found]


def rights(url: str, table: str) -> set[str]:
    with psycopg.connect(url) as owner:
        kinds = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
        return {
            kind
            for kind in kinds
            if owner.execute(
                "select has_table_privilege('aegis_executor', %s, %s)", (table, kind)
            ).fetchone()
            == (True,)
        }


async def test_executor_reads_and_adds_and_no_more(migrated: None, database_url: str):
    """Every table of its schema, but for what may have to be erased and what it must not say."""
    found = {
        name: rights(database_url, f"{SCHEMA}.{name}") for name in tables(database_url, SCHEMA)
    }
    assert found.pop("schema_migration") == {"SELECT"}
    assert found.pop("audit_attachment") == {"SELECT", "INSERT", "DELETE"}
    assert {"intent", "ending", "verdict", "pause", "storm", "epoch"} <= found.keys()
    assert set(map(frozenset, found.values())) == {frozenset({"SELECT", "INSERT"})}


async def test_executor_has_no_right_on_the_servers_tables(
    executor: psycopg.Connection, database_url: str
):
    """Not one, on not one of them."""
    names = tables(database_url, "aegis")
    assert "action" in names
    for name in names:
        assert rights(database_url, f"aegis.{name}") == set()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        executor.execute("select * from aegis.action")


@pytest.mark.parametrize("verb", ["update {} set {} = {}", "delete from {}", "truncate {}"])
async def test_update_delete_and_truncate_are_refused(
    executor: psycopg.Connection, database_url: str, verb: str
):
    """By the database, before any trigger is asked."""
    for name in set(tables(database_url, SCHEMA)) - {"audit_attachment"}:
        table = sql.Identifier(SCHEMA, name)
        column = executor.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0"
            " and not attisdropped order by attnum desc limit 1",
            (f"{SCHEMA}.{name}",),
        ).fetchone()
        assert column is not None
        statement = sql.SQL(verb).format(
            *[table, *[sql.Identifier(column[0])] * 2][: verb.count("{}")]
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            executor.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "create table aegis_executor.mine (n int)",
        "drop table aegis_executor.intent",
        "alter table aegis_executor.intent disable trigger all",
        "insert into aegis_executor.schema_migration values (99, 'x', 'y')",
        "drop schema aegis_executor cascade",
        "create schema mine",
        "set role aegis_owner",
        "set session_replication_role = replica",
    ],
)
async def test_executor_cannot_change_what_holds_it(executor: psycopg.Connection, statement: str):
    """Neither tables nor triggers nor its own rights."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        executor.execute(statement)


async def test_tables_of_later_migrations_have_the_same_rights(migrated: None, database_url: str):
    """Who adds one need not think of it."""
    with psycopg.connect(database_url) as owner:
        owner.execute("create table aegis_executor.later (n int)")
    assert rights(database_url, "aegis_executor.later") == {"SELECT", "INSERT"}


async def test_schema_the_role_owned_is_taken_over(database_url: str, executor_database_url: str):
    """As an earlier Aegis left it: everything made by the executor itself."""
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("alter schema aegis_executor owner to aegis_executor")
    # Where one role does it all, nothing is taken from it.
    await migrate(executor_database_url, SCHEMA, SCHEMA)
    assert "UPDATE" in rights(database_url, "aegis_executor.intent")
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("delete from aegis_executor.schema_migration where version = 5")
        owner.execute("drop index aegis_executor.ending_unknown")
    await migrate(database_url, SCHEMA, SCHEMA)
    assert rights(database_url, "aegis_executor.intent") == {"SELECT", "INSERT"}
    with (
        psycopg.connect(executor_database_url) as executor,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        executor.execute("alter table aegis_executor.intent disable trigger all")


async def test_executor_does_not_start_on_a_schema_that_does_not_fit(
    database_url: str, executor_database_url: str
):
    """Missing, behind, ahead or edited: it says so instead of changing it."""
    with pytest.raises(RuntimeError, match="migrate first"):
        await require_migrated(executor_database_url, SCHEMA, SCHEMA)
    await migrate(database_url, SCHEMA, SCHEMA)
    await require_migrated(executor_database_url, SCHEMA, SCHEMA)
    for statement, told in (
        ("update aegis_executor.schema_migration set sha256 = 'x' where version = 2", "was edited"),
        ("insert into aegis_executor.schema_migration values (99, 'x', 'y')", "newer Aegis"),
        ("delete from aegis_executor.schema_migration where version = 5", "lacks migration 0005"),
    ):
        with psycopg.connect(database_url) as owner:
            owner.execute(statement)
            owner.commit()
            with pytest.raises((RuntimeError, AegisError), match=told):
                await require_migrated(executor_database_url, SCHEMA, SCHEMA)
            owner.execute("truncate aegis_executor.schema_migration")
            owner.execute("drop schema aegis_executor cascade")
            owner.execute("create schema aegis_executor")
        await migrate(database_url, SCHEMA, SCHEMA)
