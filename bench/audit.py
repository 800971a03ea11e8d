"""Durable records a second, beside a plain INSERT loop, and how fast a copy is verified.

    python bench/audit.py
    python bench/audit.py --seconds 5 --rounds 5 --writers 1 8 64

Starts a PostgreSQL of its own with fsync on. Three ways to keep a record, side by side in every
round, all into indexed tables of the same bytes:

    loop     one connection: a single-row INSERT, COMMIT, and again
    locked   as many connections as writers; each takes the log's lock, reads the head, inserts one
             record with its hashes, commits: a hash chain without group commit
    aegis    AuditLog.record: group commit, chain, tree and index

Closed loop; milliseconds are those of one record, from being handed over to being durable.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis import algorithms
from aegis.audit.chain import chain_hash, leaf_hash
from aegis.audit.copies import CopyWriter
from aegis.audit.verifier import verify_copy
from aegis.local.postgres import SERVER, Postgres
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.checkpointing.cutting import Checkpoints
from aegis.serving.database import Database
from aegis.trust import AUDIT_CHECKPOINT, TrustBundle, TrustedKey
from aegis.v1 import audit_pb2
from aegis_server.migrating import migrate

ENTRY = Entry(
    kind=audit_pb2.AUDIT_KIND_DECISION,
    actor="automation:autopilot",
    action="restart_pod",
    resource="/clusters/sandbox/namespaces/shop/pods/web",
    outcome="allow",
    policy_revision=7,
    rule_id="automation-restarts-pods-in-shop",
    subject_id="7d3c2f0a-6a6e-4d0e-9e57-6b6d8c6f1a11",
    details={"subject": "automation:autopilot", "domain": "aegis", "source": "memory"},
)
PLAIN = "create table plain_{0} (idx bigserial primary key, at timestamptz not null, record bytea)"
Way = Callable[[int], Awaitable[None]]


async def drive(write: Way, writers: int, seconds: float) -> tuple[float, list[float]]:
    """Returns records a second and every record's milliseconds."""
    latencies: list[float] = []
    began = time.perf_counter()
    end = began + seconds

    async def worker(number: int) -> None:
        while (start := time.perf_counter()) < end:
            await write(number)
            latencies.append((time.perf_counter() - start) * 1e3)

    await asyncio.gather(*(worker(number) for number in range(writers)))
    return len(latencies) / (time.perf_counter() - began), latencies


class Bench:
    """The three ways, over one server."""

    def __init__(self, url: str, audit: AuditLog, record: bytes) -> None:
        self._url = url
        self._audit = audit
        self._record = record
        self._connections: list[psycopg.AsyncConnection] = []

    async def open(self, writers: int) -> None:
        for _ in range(writers):
            connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
            self._connections.append(connection)
        owner = self._connections[0]
        await owner.execute(PLAIN.format("loop"))
        await owner.execute(PLAIN.format("locked"))
        await owner.execute(
            "alter table plain_locked add leaf bytea, add previous bytea, add chain bytea"
        )

    async def loop(self, number: int) -> None:
        await self._connections[0].execute(
            "insert into plain_loop (at, record) values (now(), %s)", (self._record,)
        )

    async def locked(self, number: int) -> None:
        connection = self._connections[number]
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(7)")
            cursor = await connection.execute(
                "select chain from plain_locked order by idx desc limit 1"
            )
            row = await cursor.fetchone()
            previous = bytes(row[0]) if row else bytes(32)
            leaf = leaf_hash(self._record)
            await connection.execute(
                "insert into plain_locked (at, record, leaf, previous, chain)"
                " values (now(), %s, %s, %s, %s)",
                (self._record, leaf, previous, chain_hash(previous, leaf)),
            )

    async def aegis(self, number: int) -> None:
        await self._audit.record(ENTRY)


async def appends(bench: Bench, options: argparse.Namespace) -> None:
    rates: dict[tuple[str, int], list[float]] = {}
    for round_number in range(options.rounds):
        for writers in options.writers:
            ways: list[tuple[str, Way, int]] = [("loop", bench.loop, 1)]
            ways += [("locked", bench.locked, writers), ("aegis", bench.aegis, writers)]
            for name, way, count in ways:
                rate, latencies = await drive(way, count, options.seconds)
                rates.setdefault((name, writers), []).append(rate)
                p50, p99 = (statistics.quantiles(latencies, n=100)[i] for i in (49, 98))
                print(
                    f"round {round_number + 1}  {writers:3d} writers  {name:7s}"
                    f" {rate:7.0f}/s  p50 {p50:7.2f} ms  p99 {p99:7.2f} ms"
                )
    for writers in options.writers:
        loop, locked, ours = (
            statistics.median(rates[(name, writers)]) for name in ("loop", "locked", "aegis")
        )
        print(
            f"median  {writers:3d} writers  loop {loop:6.0f}/s  locked {locked:6.0f}/s "
            f" aegis {ours:6.0f}/s  = {ours / loop:.1f} x loop, {ours / locked:.1f} x locked"
        )


async def verification(
    audit: AuditLog, kept: Checkpoints, key: Ed25519PrivateKey, folder: Path
) -> None:
    now = datetime.now(UTC)
    await kept.cut_if_due()
    with CopyWriter(folder / audit.log_id) as copy:
        start = 0
        while True:
            async with audit.database.transaction() as connection:
                rows = await audit.store.stored_from(connection, start=start, limit=2000)
            if not rows:
                break
            for row in rows:
                copy.add(
                    audit_pb2.StoredAuditRecord(
                        record=row.record,
                        leaf_hash=row.leaf_hash,
                        prev_chain_hash=row.prev_chain_hash,
                        chain_hash=row.chain_hash,
                    )
                )
            start = rows[-1].idx + 1
        for each in await kept.since(0, 0, 10_000):
            copy.add_note(each.note)
    public = key.public_key()
    trusted = TrustedKey(
        key_id=algorithms.key_id(public),
        usage=AUDIT_CHECKPOINT,
        owner=f"log:{audit.log_id}",
        public_key=public,
        not_before=now - timedelta(days=1),
        not_after=now + timedelta(days=1),
    )
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        result = verify_copy(folder, trust=TrustBundle((trusted,)), now=now)
        seconds.append(time.perf_counter() - began)
    records = result.logs[0].records
    rate = records / statistics.median(seconds)
    print(
        f"verify  {records} records, {result.logs[0].checkpoints} checkpoints:"
        f" {result.verdict.name.lower()}, median {rate:.0f} records/s"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 8, 64])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as scratch:
        home = Path(scratch)
        with Postgres(
            home / "data", run=home / "run", log=home / "postgres.log", outlives_us=False
        ) as server:
            await migrate(server.url())
            database = Database(server.url(SERVER), application="bench")
            await database.open()
            key = Ed25519PrivateKey.generate()
            clock = lambda: datetime.now(UTC)  # noqa: E731
            audit = AuditLog(database, log_id="aegis-server", clock=clock)
            kept = Checkpoints(audit, key, clock=clock)
            running = [asyncio.create_task(part) for part in (audit.run(), kept.run())]
            await audit.record(ENTRY)
            async with database.transaction() as connection:
                (first,) = await audit.store.stored_from(connection, start=0, limit=1)
            bench = Bench(server.url(), audit, first.record)
            await bench.open(max(options.writers))
            size = len(first.record)
            print(f"load {os.getloadavg()}, {os.cpu_count()} cores, {size} bytes a record")
            await appends(bench, options)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await verification(audit, kept, key, home / "copy")
            await database.close()
            for connection in bench._connections:  # noqa: SLF001
                await connection.close()
            print(f"load {os.getloadavg()}")


if __name__ == "__main__":
    uvloop.run(main())
