"""A decision log as a server has it, and decisions for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry

from aegis.serving.auditlog import AuditLog
from aegis.serving.auditlog.store import Store
from aegis.serving.database import Database
from aegis.v1 import audit_pb2
from aegis_server.policy.decisionlog import DecisionLog, Entry, store
from aegis_server.policy.decisionlog.store import Filter, Row


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Logging:
    """One server's decision log; `database` may be one that is not there."""

    database: Database
    settings: Mapping[str, object] = field(default_factory=dict)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.audit = AuditLog(self.database, log_id="test", clock=now)
        self.log = DecisionLog(
            self.database,
            audit=self.audit,
            replica="one",
            clock=now,
            registry=self.registry,
            **self.settings,  # type: ignore[arg-type]
        )

    def entry(self, **fields: object) -> Entry:
        """A plain decision: somebody may read."""
        entry = Entry(
            at=now(),
            decision_id=self.log.next_id(),
            caller="user:admin",
            subject="user:ann",
            domain="aegis",
            resource="/training/runs",
            action="read",
            attributes={},
            allowed=True,
            rule_id="ann-reads",
            revision=1,
            source="engine",
            microseconds=7,
        )
        return entry._replace(**fields)  # type: ignore[arg-type]

    def note(self, **fields: object) -> Entry:
        entry = self.entry(**fields)
        self.log.note(entry)
        return entry

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[DecisionLog]:
        task = asyncio.create_task(self.log.run())
        await asyncio.sleep(0)
        try:
            yield self.log
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def write(self, *entries: Entry) -> None:
        """Notes decisions and stops the server."""
        async with self.running():
            for entry in entries:
                self.log.note(entry)

    def counted(self, name: str) -> float:
        return self.registry.get_sample_value(f"aegis_policy_{name}") or 0.0


async def until_stored(log: DecisionLog) -> None:
    async with asyncio.timeout(10):
        while log.waiting:
            await asyncio.sleep(0.01)


async def stored(database: Database, **chosen: object) -> list[Row]:
    """The decisions in the database, the oldest first."""
    async with database.transaction() as connection:
        return await store.oldest(connection, Filter(**chosen), limit=100_000)  # type: ignore[arg-type]


async def audit_records(database: Database) -> Sequence[audit_pb2.AuditRecord]:
    async with database.transaction() as connection:
        rows = await Store("aegis").stored_from(connection, start=0, limit=1000)
    found = [audit_pb2.AuditRecord.FromString(row.record) for row in rows]
    return [each for each in found if each.kind == audit_pb2.AUDIT_KIND_DECISION]
