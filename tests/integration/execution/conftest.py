"""A house for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.execution.house import House, opened


@pytest.fixture
async def house(
    server_tables: str, server_database_url: str, tmp_path: Path
) -> AsyncIterator[House]:
    """The execution room behind its doors."""
    async with opened(server_database_url, tmp_path) as built:
        yield built
