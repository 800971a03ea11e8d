"""Real servers for tests: one PostgreSQL and one Valkey a session, a fresh database a test.

    postgres_url           owner of the whole server (database `postgres`)
    database_url           owner of a fresh database without any table, dropped afterwards
    server_tables          asks that it has those of the server, as the newest migration leaves them
    executor_tables        or those of the executor
    server_database_url    the same database as the role `aegis_server`, once migrated as owner
    executor_database_url  the same database as the role `aegis_executor`, likewise
    redis_url              an empty Valkey

`AEGIS_TEST_POSTGRES_BIN=/usr/lib/postgresql/15/bin` runs the suite on another PostgreSQL.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from aegis.local.postgres import DATABASE, EXECUTOR, SERVER, Postgres
from aegis.local.valkey import Valkey, ask
from aegis.serving import database
from aegis_server import migrating
from tests.refusing import pytest_runtest_call as pytest_runtest_call

# Nobody pulls this plug, and the log of it is for nobody.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "128MB",
    "min_wal_size": "32MB",
}
_MEMORY_BYTES = 4 * 1024**3


def pytest_configure() -> None:
    """Lets tests write into memory, where there is enough: a disk is most of a new database."""
    memory = Path("/dev/shm")
    if "TMPDIR" in os.environ or not os.access(memory, os.W_OK):
        return
    found = os.statvfs(memory)
    # Some of what is written is a program.
    if found.f_bavail * found.f_frsize > _MEMORY_BYTES and not found.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(memory)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The session's server; Linux ends it with us, even when we are killed."""
    binaries = os.environ.get("AEGIS_TEST_POSTGRES_BIN")
    with tempfile.TemporaryDirectory(prefix="aegis-tests-") as folder:
        home = Path(folder)
        with Postgres(
            home / "data",
            run=home / "run",
            log=home / "postgres.log",
            binaries=Path(binaries) if binaries else None,
            settings=_SETTINGS,
            outlives_us=False,
        ) as server:
            yield server


@pytest.fixture(scope="session")
def postgres_url(postgres: Postgres) -> str:
    """Owner of the whole server."""
    return postgres.url(database="postgres")


class Templates:
    """Databases that are copied for tests: migrations take ten times as long as a copy."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        # Never migrated, with the roles' rights as `aegis up` gives them.
        self._made = {"": DATABASE}

    def of(self, package: str) -> str:
        """Returns one with the tables of a package; "" is for none."""
        if package not in self._made:
            name = f"template_{package}"
            with psycopg.connect(self._postgres.url(database="postgres"), autocommit=True) as owner:
                owner.execute(f"create database {name} template {DATABASE} strategy file_copy")
            url = self._postgres.url(database=name)
            work = (
                migrating.migrate(url)
                if package == "aegis_server"
                else database.migrate(url, package, package)
            )
            # Whoever asks may have a loop already.
            with ThreadPoolExecutor(max_workers=1) as thread:
                thread.submit(asyncio.run, work).result()
            self._made[package] = name
        return self._made[package]


@pytest.fixture(scope="session")
def templates(postgres: Postgres) -> Templates:
    """What the databases of tests are copies of."""
    return Templates(postgres)


@pytest.fixture
def server_tables() -> str:
    """Whoever uses it has a database with the server's tables."""
    return "aegis_server"


@pytest.fixture
def executor_tables() -> str:
    """Whoever uses it has a database with the executor's tables."""
    return "aegis_executor"


@pytest.fixture
def database_name(
    request: pytest.FixtureRequest, templates: Templates, postgres_url: str
) -> Iterator[str]:
    """Name of a fresh database: without any table, unless they are asked for."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    asked = [each for each in ("server_tables", "executor_tables") if each in request.fixturenames]
    package = request.getfixturevalue(asked[0]) if asked else ""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        template = templates.of(package)
        connection.execute(f"create database {name} template {template} strategy file_copy")
        yield name
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def database_url(postgres: Postgres, database_name: str) -> str:
    """Owner of a fresh database without any table."""
    return postgres.url(database=database_name)


@pytest.fixture
def server_database_url(postgres: Postgres, database_name: str) -> str:
    """`aegis_server` in the test's database: no owner's rights, as in production."""
    return postgres.url(SERVER, database_name)


@pytest.fixture
def executor_database_url(postgres: Postgres, database_name: str) -> str:
    """`aegis_executor` in the test's database, once migrated as owner; it reads and adds."""
    return postgres.url(EXECUTOR, database_name)


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """The session's Valkey."""
    with tempfile.TemporaryDirectory(prefix="aegis-tests-") as folder:
        home = Path(folder)
        with Valkey(run=home / "run", log=home / "valkey.log") as server:
            yield server


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """An empty Valkey."""
    ask(Path(valkey.address), "FLUSHALL")
    return valkey.url
