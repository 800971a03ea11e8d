"""Offices for tests of what is governed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.office import Office, opened

from aegis_server.workers import Workers


@pytest.fixture(scope="session")
def office_workers() -> Iterator[Workers]:
    """One process that reads files, started when it is first needed."""
    started = Workers(1)
    yield started
    started.close()


@pytest.fixture
async def office_url(server_tables: str, server_database_url: str) -> str:
    """A migrated database, as servers see it."""
    return server_database_url


@pytest.fixture
async def office(office_url: str, tmp_path: Path, office_workers: Workers) -> AsyncIterator[Office]:
    """One server."""
    async with opened(office_url, tmp_path, office_workers) as served:
        yield served
