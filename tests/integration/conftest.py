"""What tests with real parts share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aegis.serving.database import Database


@pytest.fixture
async def database(server_tables: str, server_database_url: str) -> AsyncIterator[Database]:
    """A migrated database, as the server's role."""
    opened = Database(server_database_url, application="test")
    await opened.open()
    yield opened
    await opened.close()
