"""How many decisions a second the decision log takes, and how many it writes.

    python bench/decision_log.py
    python bench/decision_log.py --decisions 50000 --rounds 5

Four figures from one run, taken in turns: `note`, which every answer waits for; making lines of
what was noted; the flush of whole batches by COPY, with lines, hashes and indexes; and single
INSERTs of the same rows, each its own commit. PostgreSQL is one of its own, with fsync on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from aegis.local.postgres import SERVER, Postgres
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis_server.migrating import migrate
from aegis_server.policy.decisionlog import DecisionLog, Entry
from aegis_server.policy.decisionlog.lines import line_of
from aegis_server.policy.decisionlog.verification import verify

SINGLE = """
    insert into aegis.decision (at, decision_id, log, batch, place, effect, source, revision,
        microseconds, attributes_digest, caller, subject, domain, resource, action, rule_id)
    values (%s, %s, %s, 1000000, 0, 1, 1, 1, 7, '\\x00', %s, %s, 'aegis', %s, 'restart_pod', %s)
"""


def now() -> datetime:
    return datetime.now(UTC)


class Bench:
    """One decision log and what is noted in it."""

    def __init__(self, database: Database, count: int) -> None:
        self.count = count
        self.database = database
        audit = AuditLog(database, log_id="bench", clock=now)
        self.log = DecisionLog(
            database,
            audit=audit,
            replica="bench",
            clock=now,
            registry=CollectorRegistry(),
            capacity=count,
        )

    def entry(self, number: int) -> Entry:
        return Entry(
            now(),
            self.log.next_id(),
            "automation:autopilot",
            f"user:u-{number % 1000}",
            "aegis",
            f"/clusters/sandbox/namespaces/shop/pods/web-{number}",
            "restart_pod",
            {"namespace": "shop"},
            True,
            "automation-restarts-pods",
            1,
            "engine",
            7,
        )

    def noting(self) -> float:
        """Entries a second, the entry itself and its id included."""
        began = time.perf_counter()
        for number in range(self.count):
            self.log.note(self.entry(number))
        return self.count / (time.perf_counter() - began)

    def lines(self) -> float:
        entries = [self.entry(number) for number in range(10_000)]
        began = time.perf_counter()
        for entry in entries:
            line_of(entry, keep=False)
        return len(entries) / (time.perf_counter() - began)

    async def flush(self) -> float:
        """Decisions a second from the buffer into Postgres: what `noting` left there."""
        began = time.perf_counter()
        task = asyncio.create_task(self.log.run())
        while self.log.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        took = time.perf_counter() - began
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return self.count / took

    async def singles(self, count: int) -> float:
        began = time.perf_counter()
        for number in range(count):
            e = self.entry(number)
            async with self.database.transaction() as connection:
                await connection.execute(
                    SINGLE,
                    (
                        e.at,
                        e.decision_id,
                        self.log.log_id,
                        e.caller,
                        e.subject,
                        e.resource,
                        e.rule_id,
                    ),
                )
        return count / (time.perf_counter() - began)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--singles", type=int, default=1000)
    options = parser.parse_args()
    print(f"load {os.getloadavg()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as folder:
        home = Path(folder)
        with Postgres(
            home / "data", run=home / "run", log=home / "log", outlives_us=False
        ) as postgres:
            await migrate(postgres.url())
            database = Database(postgres.url(SERVER), application="bench")
            await database.open()
            rates: dict[str, list[float]] = {}
            for _ in range(options.rounds):
                bench = Bench(database, options.decisions)
                for name, rate in (
                    ("note", bench.noting()),
                    ("line", bench.lines()),
                    ("flush by COPY", await bench.flush()),
                    ("single INSERT", await bench.singles(options.singles)),
                ):
                    rates.setdefault(name, []).append(rate)
                    print(f"{name:14s} {rate:10,.0f}/s  {1e6 / rate:8.2f} us each")
            began = time.perf_counter()
            found = await verify(database)
            rate = found.decisions / (time.perf_counter() - began)
            print(f"{'verify':14s} {rate:10,.0f}/s")
            await database.close()
    for name, values in rates.items():
        print(f"median {name:14s} {statistics.median(values):10,.0f}/s")
    copied, single = (statistics.median(rates[n]) for n in ("flush by COPY", "single INSERT"))
    print(f"COPY / INSERT {copied / single:.0f}x")
    print(f"load {os.getloadavg()}")


if __name__ == "__main__":
    asyncio.run(main())
