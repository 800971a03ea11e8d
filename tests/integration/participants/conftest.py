"""A house for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.integration.participants.house import House

from aegis_server.workers import Workers


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """One process that reads files; starting it takes longer than any of these tests."""
    started = Workers(1)
    yield started
    started.close()


@pytest.fixture
async def empty_house(
    server_tables: str, server_database_url: str, tmp_path: Path, workers: Workers
) -> House:
    """A house without a server."""
    return House(tmp_path, server_database_url, workers)


@pytest.fixture
async def house(empty_house: House) -> AsyncIterator[House]:
    """A house with one server."""
    async with empty_house.serving():
        yield empty_house
