from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
from tests.integration.policy.decisionlog.logs import Logging

from aegis.serving.database import Database


@pytest.fixture
def logging(database: Database) -> Logging:
    return Logging(database)


@pytest.fixture
async def owner(
    database: Database, database_url: str
) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    """The owner of the tables, whom no grant holds back."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection
