"""AuditService on real Postgres: whatever was recorded can be read again by everybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from aegis.audit import chain as auditchain
from aegis.serving.database import Database, migrate
from aegis.v1 import audit_pb2
from aegis_server.audit.log import AuditLog, Entry
from aegis_server.audit.service import AuditService

# As clients of `aegis.channel.connect` take them.
MESSAGE_BYTES = 4 * 1024 * 1024
RECORDS = 120


@pytest.fixture
async def service(database_url: str, server_database_url: str) -> AsyncIterator[AuditService]:
    """A log of records that each carry the largest evidence a request can be."""
    await migrate(database_url, "aegis_server", "aegis")
    database = Database(server_database_url, application="test")
    await database.open()
    log = AuditLog(database, log_id="test", clock=lambda: datetime.now(UTC))
    entry = Entry(
        kind=audit_pb2.AUDIT_KIND_ACTION,
        actor="automation:autopilot",
        action="restart_pod",
        resource="/x",
        outcome="dispatched",
        evidence={"request": bytes(48 * 1024)},
    )
    async with database.transaction() as connection:
        await log.record_in(connection, *[entry] * RECORDS)
    yield AuditService(database, "test")
    await database.close()


async def test_export_of_large_records_comes_in_messages_a_client_takes(service: AuditService):
    """One asker's large evidence does not make the whole log unverifiable."""
    stored = []
    async for batch in service.ExportAuditRecords(audit_pb2.ExportAuditRecordsRequest(), None):
        assert batch.ByteSize() < MESSAGE_BYTES
        stored += batch.records
    result = auditchain.verify(stored)
    assert (result.intact, result.records) == (True, RECORDS)


async def test_pages_of_large_records_are_shorter_and_lose_none(service: AuditService):
    """A page ends early rather than grow too large, and says that there is more."""
    seen, token = [], ""
    while not seen or token:
        request = audit_pb2.ListAuditRecordsRequest(page_size=1000, page_token=token)
        page = await service.ListAuditRecords(request, None)
        assert page.ByteSize() < MESSAGE_BYTES
        seen += [record.index for record in page.records]
        token = page.next_page_token
    assert seen == list(range(RECORDS))[::-1]
