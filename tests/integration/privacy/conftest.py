"""The privacy room as it stands in a server: real Postgres, policy, audit and mTLS."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from aegis.channel import Identity, connect
from aegis.local import pki
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Doors, by_certificate
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.tls import TlsFiles
from aegis.v1 import audit_pb2, privacy_pb2_grpc
from aegis_server.access import Access
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.privacy.book import Mechanism
from aegis_server.privacy.books import Books
from aegis_server.privacy.ledger import Ledger
from aegis_server.privacy.service import PrivacyService
from aegis_server.training.store import StoredRun, insert_run

DATASET = "breast-cancer"
# Epsilon 12.0 at delta 1e-3 alone; two fit into 20 with 18.3, and three do not.
PLAN = Mechanism(1.1014, 0.3, 60, clip_norm=1.0, delta=1e-3)


@dataclass
class Room:
    """The room's parts, and how to reach them from outside."""

    database: Database
    audit: AuditLog
    ledger: Ledger
    books: Books
    address: str
    home: Path
    stack: AsyncExitStack

    async def reserve(
        self,
        *participants: str,
        mechanism: Mechanism = PLAN,
        dataset: str = DATASET,
        simulation: bool = False,
        model: str = "mlp",
        database: Database | None = None,
    ) -> str:
        """Begins a run that reserves, in the transaction that stores it; returns its id."""
        run_id = f"run-{uuid.uuid4().hex[:12]}"
        async with (database or self.database).transaction() as connection:
            await insert_run(connection, stored_run(run_id))
            await self.ledger.reserve(
                connection,
                run_id=run_id,
                dataset=dataset,
                participants=participants or ("*",),
                mechanism=mechanism,
                simulation=simulation,
                model=model,
                at=now(),
            )
        return run_id

    async def settle(self, run_id: str, **steps: int) -> None:
        """Ends a run; "everybody" stands for "*"."""
        named = {"*" if name == "everybody" else name: taken for name, taken in steps.items()}
        async with self.database.transaction() as connection:
            await self.ledger.settle(connection, run_id, named, now())

    async def spent(self, participant: str = "*") -> float:
        """What a participant's rows bear."""
        async with self.database.transaction() as connection:
            return await self.ledger.spent(connection, DATASET, participant)

    async def records(self) -> list[audit_pb2.AuditRecord]:
        """What the log says of runs and what they may cost, oldest first."""
        async with self.database.transaction() as connection:
            cursor = await connection.execute(
                "select record from aegis.audit_record where kind = 4 order by idx"
            )
            return [audit_pb2.AuditRecord.FromString(row[0]) for row in await cursor.fetchall()]

    async def invite(self, name: str) -> None:
        """Makes a participant that has done nothing yet."""
        async with self.database.transaction() as connection:
            await invite(connection, name)

    async def stub(self, name: str) -> privacy_pb2_grpc.PrivacyServiceStub:
        """PrivacyService as the certificate of that name calls it."""
        channel: grpc.aio.Channel = await self.stack.enter_async_context(
            connect(self.address, Identity.of(name, self.home))
        )
        return privacy_pb2_grpc.PrivacyServiceStub(channel)


def now() -> datetime:
    return datetime.now(UTC)


def stored_run(run_id: str) -> StoredRun:
    """A run as the ledger needs it: there."""
    return StoredRun(
        run_id=run_id,
        request_id=uuid.uuid4(),
        plan=b"",
        state=2,
        reason="",
        actor="user:admin",
        policy_revision=1,
        rule_id="",
        noise_multiplier=1.0,
        attempt=1,
        created_at=now(),
        updated_at=now(),
        creator="user:admin",
    )


async def invite(connection: Connection, name: str) -> None:
    await connection.execute(
        """
        insert into aegis.participant
            (name, state, invited_by, invited_at, secret_sha256, invitation_ends_at)
        values (%s, 1, 'user:admin', now(), %s, now())
        """,
        (name, bytes(32)),
    )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def room(server_tables: str, server_database_url: str, tmp_path: Path) -> AsyncIterator[Room]:
    """A serving privacy room on a fresh database."""
    pki.ensure(tmp_path / "pki")
    async with AsyncExitStack() as stack:
        database = Database(server_database_url, application="test")
        await database.open()
        stack.push_async_callback(database.close)
        audit = AuditLog(database, log_id="test", clock=now)
        stack.push_async_callback(_cancel, asyncio.create_task(audit.run()))
        registry = CollectorRegistry()
        decisions = Decisions(database, cache=None, clock=now, registry=registry)
        await Revisions(database, audit=audit, decisions=decisions, clock=now).ensure_first()
        await decisions.open()
        ledger, deeds = Ledger(), Deeds()
        books = Books(database, audit, ledger, clock=now)
        names = ("server.crt", "server.key", "ca.crt")
        port = Port(
            doors=Doors(
                admit=Access(decisions, audit).admit,
                metrics=CallMetrics(registry),
                authenticate=by_certificate("aegis.local"),
            ),
            tls=TlsFiles(*(tmp_path / "pki" / name for name in names)),
            services=(),
        )
        privacy_pb2_grpc.add_PrivacyServiceServicer_to_server(
            PrivacyService(books, deeds), port.server
        )
        address = await port.open("127.0.0.1:0")
        stack.push_async_callback(deeds.drain)
        stack.push_async_callback(port.close, 1.0)
        yield Room(database, audit, ledger, books, address, tmp_path, stack)
