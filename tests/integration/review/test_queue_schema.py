"""The queue's tables come from the installed package, and follow it from release to release."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import psycopg
import pytest

from aegis.serving.database import read_migrations
from aegis_server.migrating import migrate
from aegis_server.review.queue import schema
from aegis_server.review.queue.schema import Release

NOTE = "03.98.00_01_pre_add_note.sql"
KIND = "03.99.00_01_pre_add_kind.sql"
LATER = {
    NOTE: "alter table procrastinate_jobs add column note text; -- 100 %\n",
    KIND: "alter table procrastinate_jobs alter column note set default 'x';",
}

pytestmark = pytest.mark.usefixtures("server_tables")


def release(version: str, more: Mapping[str, str]) -> Release:
    """A release with more migrations than the one that is installed."""
    now = schema.installed()
    return replace(now, version=version, migrations={**now.migrations, **more})


def written_down(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        return dict(
            connection.execute("select name, release from aegis.review_queue_migration").fetchall()
        )


def test_no_migration_of_ours_repeats_the_schema_of_the_package():
    """What another project wrote is taken from its package."""
    ours = "".join(each.text for each in read_migrations("aegis_server"))
    theirs = {line.strip() for line in schema.installed().schema.splitlines()}
    assert [line for line in theirs if len(line) > 30 and line in ours] == []


def test_migrated_database_has_the_queue_of_the_installed_release(database_url: str):
    """Its tables are in our schema, and its migrations are written down with its version."""
    now = schema.installed()
    assert written_down(database_url) == dict.fromkeys(now.migrations, now.version)
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "select count(*) from pg_tables where schemaname = 'aegis'"
            " and tablename like 'procrastinate%'"
        ).fetchone()
    assert found == (now.schema.count("CREATE TABLE"),)


async def test_migrating_again_changes_nothing(database_url: str):
    """Programs migrate whenever they start."""
    assert await migrate(database_url) == []


async def test_migrations_of_a_later_release_are_applied_in_order(database_url: str):
    """Each once, in our schema, however many programs start at once."""
    later = release("3.99.0", dict(reversed(LATER.items())))
    before = written_down(database_url)
    at_once = await asyncio.gather(
        *(schema.bring_up_to_date(database_url, later) for _ in range(3))
    )
    assert sorted(name for each in at_once for name in each) == [NOTE, KIND]
    assert written_down(database_url) == {**before, NOTE: "3.99.0", KIND: "3.99.0"}
    with psycopg.connect(database_url, options="-c search_path=aegis") as connection:
        job = connection.execute(
            "insert into procrastinate_jobs (queue_name, task_name) values ('q', 't')"
            " returning note"
        ).fetchone()
    assert job == ("x",)


async def test_migration_that_fails_is_tried_again(database_url: str):
    """What came before it stays, and it leaves nothing behind."""
    broken = release("3.99.0", {**LATER, KIND: LATER[NOTE].replace("note", "kind") + "select 1/0;"})
    with pytest.raises(psycopg.errors.DivisionByZero):
        await schema.bring_up_to_date(database_url, broken)
    assert KIND not in written_down(database_url)
    assert await schema.bring_up_to_date(database_url, release("3.99.1", LATER)) == [KIND]
    assert written_down(database_url)[NOTE] == "3.99.0"


async def test_earlier_release_is_refused(database_url: str):
    """It would use functions the later one may have taken away."""
    await schema.bring_up_to_date(database_url, release("3.99.0", LATER))
    with pytest.raises(RuntimeError, match=rf"{KIND}, applied by release 3\.99\.0, which the"):
        await migrate(database_url)


async def test_migration_that_comes_too_late_is_refused(database_url: str):
    """It was written for tables that are not there any more."""
    await schema.bring_up_to_date(database_url, release("3.99.0", {KIND: "select 1;"}))
    with pytest.raises(RuntimeError, match=rf"{NOTE}, which comes before {KIND}"):
        await schema.bring_up_to_date(database_url, release("3.98.1", {**LATER, KIND: "select 1;"}))
    assert NOTE not in written_down(database_url)
