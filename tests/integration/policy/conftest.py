from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.integration.policy.rooms import Room

from aegis.serving.database import Database, migrate


@pytest.fixture
async def database(database_url: str, server_database_url: str) -> AsyncIterator[Database]:
    await migrate(database_url, "aegis_server", "aegis")
    opened = Database(server_database_url, application="test")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Room]:
    started = Room(database)
    writer = asyncio.create_task(started.audit.run())
    await started.revisions.ensure_first()
    await started.decisions.open()
    yield started
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
