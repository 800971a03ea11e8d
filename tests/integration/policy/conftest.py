from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.integration.policy.rooms import Room

from aegis.serving.database import Database


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Room]:
    started = Room(database)
    await started.revisions.ensure_first()
    await started.decisions.open()
    # As in the program: decisions are written to their end while the audit log still is.
    running = [asyncio.create_task(part) for part in (started.log.run(), started.audit.run())]
    yield started
    for part in running:
        part.cancel()
        await asyncio.gather(part, return_exceptions=True)
