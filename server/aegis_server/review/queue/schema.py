"""The queue's tables: procrastinate's own, brought up to date from the installed package.

A package carries its whole schema, for a database that has nothing of it, and the migrations that
led there. Which of those a database has is written down: so the migrations of a later release are
applied in their order, and what cannot be told apart is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from procrastinate.schema import SchemaManager

from aegis.serving.database import Database
from aegis_server.review.queue import store


@dataclass(frozen=True, slots=True)
class Release:
    """A release of procrastinate: its schema, and SQL by name of the migrations that led there."""

    version: str
    schema: str
    migrations: Mapping[str, str]


def installed() -> Release:
    """Returns the release this program runs with."""
    folder = Path(SchemaManager.get_migrations_path())
    return Release(
        version=metadata.version("procrastinate"),
        schema=SchemaManager.get_schema(),
        migrations={each.name: each.read_text("utf-8") for each in sorted(folder.glob("*.sql"))},
    )


async def bring_up_to_date(url: str, release: Release) -> list[str]:
    """Brings the queue's tables up to a release, as their owner; returns what was applied.

    One transaction a migration, under a lock, so any number of programs may start at once. Raises
    RuntimeError when the tables are of a release with migrations this one does not know, or lack
    some that should have come before those they have.
    """
    database = Database(url, application="aegis-migrate", max_size=1)
    await database.open()
    try:
        done: list[str] = []
        while (name := await _step(database, release)) is not None:
            done.append(name)
        return done
    finally:
        await database.close()


async def _step(database: Database, release: Release) -> str | None:
    async with database.transaction() as connection:
        await store.lock(connection)
        applied = await store.applied(connection)
        if not applied:
            names = list(release.migrations)
            await store.apply(connection, release.schema, names, release=release.version)
            return f"procrastinate {release.version}"
        name = following(release, applied)
        if name is not None:
            text = release.migrations[name]
            await store.apply(connection, text, [name], release=release.version)
        return name


def following(release: Release, applied: Mapping[str, str]) -> str | None:
    """Returns the migration that comes next after those that were applied, each by a release."""
    unknown = sorted(applied.keys() - release.migrations.keys())
    if unknown:
        raise RuntimeError(
            f"the queue has procrastinate's migration {unknown[-1]}, applied by release"
            f" {applied[unknown[-1]]}, which the installed {release.version} does not know:"
            " install that release, or a later one"
        )
    missing = sorted(release.migrations.keys() - applied.keys())
    if not missing:
        return None
    newest = max(applied)
    if missing[0] < newest:
        raise RuntimeError(
            f"procrastinate {release.version} has migration {missing[0]}, which comes before"
            f" {newest}, and the queue has only that, applied by release {applied[newest]}:"
            " install that release, or one whose migrations follow"
        )
    return missing[0]
