"""Real servers for tests: one PostgreSQL and one Valkey a session, a fresh database a test.

    postgres_url           owner of the whole server (database `postgres`)
    database_url           owner of a fresh database without any table, dropped afterwards
    server_database_url    the same database as the role `aegis_server`, once migrated as owner
    executor_database_url  the same database as the role `aegis_executor`, likewise
    redis_url              an empty Valkey

`AEGIS_TEST_POSTGRES_BIN=/usr/lib/postgresql/15/bin` runs the suite on another PostgreSQL.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from aegis.local.postgres import DATABASE, EXECUTOR, SERVER, Postgres
from aegis.local.valkey import Valkey, ask
from tests.refusing import pytest_runtest_call as pytest_runtest_call


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
            settings={"fsync": "off", "full_page_writes": "off"},  # nobody pulls this plug
            outlives_us=False,
        ) as server:
            yield server


@pytest.fixture(scope="session")
def postgres_url(postgres: Postgres) -> str:
    """Owner of the whole server."""
    return postgres.url(database="postgres")


@pytest.fixture
def database_name(postgres_url: str) -> Iterator[str]:
    """Name of a fresh database with the roles' rights as `aegis up` gives them."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        # The session's `aegis` is never migrated, so it is the template.
        connection.execute(f"create database {name} template {DATABASE} strategy wal_log")
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
