"""A house for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.participants.house import House

from aegis.serving.database import migrate


@pytest.fixture
async def empty_house(database_url: str, server_database_url: str, tmp_path: Path) -> House:
    """A house without a server."""
    await migrate(database_url, "aegis_server", "aegis")
    return House(tmp_path, server_database_url)


@pytest.fixture
async def house(empty_house: House) -> AsyncIterator[House]:
    """A house with one server."""
    async with empty_house.serving():
        yield empty_house
