from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.identity.house import EMAIL, PASSWORD, Clock, House

from aegis.serving.database import Database
from aegis.v1 import session_pb2


@pytest.fixture
async def house(database: Database, tmp_path: Path) -> AsyncIterator[House]:
    """A server that has no administrator yet."""
    built = House(database, tmp_path, Clock())
    async with built.serving():
        yield built


@pytest.fixture
async def admin(house: House) -> session_pb2.Session:
    """The session in which the first administrator was made."""
    async with house.calling() as call:
        request = session_pb2.BootstrapRequest(
            token=house.bootstrap_file.read_text().strip(),
            email=EMAIL,
            display_name="Ada L",
            password=PASSWORD,
        )
        return (await call(call.sessions.Bootstrap, request)).session
