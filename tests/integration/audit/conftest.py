"""A migrated database, as the server's role."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from aegis.serving.database import Database, migrate


@pytest.fixture
async def database(database_url: str, server_database_url: str) -> AsyncIterator[Database]:
    await migrate(database_url, "aegis_server", "aegis")
    opened = Database(server_database_url, application="test")
    await opened.open()
    yield opened
    await opened.close()
