"""From an edit on one server to answers by it on another.

    python bench/policy/edits.py
    python bench/policy/edits.py --sizes 100 10000 --edits 200

Starts a PostgreSQL of its own. This process is the server that edits: one line is added to the
rules, the next edit takes it out again. A second process is the other server: it hears of edits and
decides all the time. Both look at the same clock. "answered" counts from the moment that the edit
was answered, so it can be negative: the other server may be faster than the answer. "asked" counts
from the moment that the edit was asked for, and so has the storing in it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from languages import casbin
from prometheus_client import CollectorRegistry

from aegis.local.postgres import SERVER, Postgres
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis_policy import Line, to_csv
from aegis_policy.baseline import baseline_csv
from aegis_server.migrating import migrate
from aegis_server.policy.changes import Create, Delete, etag_of
from aegis_server.policy.decisions import Decisions, Question
from aegis_server.policy.following import Following
from aegis_server.policy.revisions import Change, Revisions
from aegis_server.policy.wishes import Wish
from rules import SEED, make_world

ADMIN = "user:admin"
NEW = Line("p", ("user:ann", "*", "/bench/**", "read", "", "allow", "bench-edit"))
ASKED = Question("user:ann", "aegis", "/bench/a", "read")


def clock() -> datetime:
    return datetime.now(UTC)


async def opened(url: str) -> tuple[Database, Decisions]:
    database = Database(url, application="bench")
    await database.open()
    decisions = Decisions(database, cache=None, clock=clock, registry=CollectorRegistry())
    return database, decisions


async def replicate(url: str) -> None:
    """The other server: says on its output which revision answered first when."""
    database, decisions = await opened(url)
    await decisions.open()
    running = [
        asyncio.create_task(part)
        for part in (decisions.run(), Following(url, decisions.refresh).run())
    ]
    seen = decisions.snapshot.revision
    print(seen, time.monotonic(), flush=True)
    while os.getppid() != 1:
        answer = await decisions.decide(ASKED)
        if answer.revision > seen:
            seen = answer.revision
            print(seen, time.monotonic(), flush=True)
        await asyncio.sleep(0.0002)
    for task in running:
        task.cancel()
    await database.close()


async def edit(url: str, rules: str, edits: int) -> tuple[list[float], list[float], float]:
    """Returns milliseconds from edits' beginnings and answers, and seconds of the import."""
    database, decisions = await opened(url)
    audit = AuditLog(database, log_id="bench", clock=clock)
    revisions = Revisions(database, audit=audit, decisions=decisions, clock=clock)
    await revisions.ensure_first()
    await decisions.open()
    began = time.monotonic()
    await revisions.import_rules(Change(baseline_csv() + "\n" + rules, ADMIN, "a bench"))
    imported = time.monotonic() - began
    other = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--replica", url, stdout=asyncio.subprocess.PIPE
    )
    assert other.stdout is not None
    await other.stdout.readline()
    asked, answered = [], []
    for _ in range(edits):
        policy = await revisions.read(0)
        placed = [each for each in policy.placed if each.line == NEW]
        change = [Delete(p.place, etag_of(p.line)) for p in placed] or [
            Create(to_csv([NEW]).strip())
        ]
        start = time.monotonic()
        outcome = await revisions.apply(Wish(ADMIN, "a bench"), change)
        end = time.monotonic()
        assert outcome.revision is not None
        seen, at = (await other.stdout.readline()).split()
        assert int(seen) == outcome.revision.number
        asked.append((float(at) - start) * 1e3)
        answered.append((float(at) - end) * 1e3)
    other.terminate()
    await other.wait()
    await database.close()
    return asked, answered, imported


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 10_000, 100_000])
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--replica", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replica:
        await replicate(options.replica)
        return
    print(f"load {os.getloadavg()}, {os.cpu_count()} cores")
    for size in options.sizes:
        rules = "\n".join(casbin(make_world(size, SEED))) + "\n"
        with tempfile.TemporaryDirectory(prefix="aegis-bench-edits-") as scratch:
            home = Path(scratch)
            server = Postgres(
                home / "data", run=home / "run", log=home / "postgres.log", outlives_us=False
            )
            with server:
                await migrate(server.url())
                asked, answered, imported = await edit(server.url(SERVER), rules, options.edits)
        lines = rules.count("\n")
        print(f"{size:7,} rules, {lines:,} lines, imported in {imported:.1f} s, {len(asked)} edits")
        for name, found in (("asked", asked), ("answered", answered)):
            cuts = statistics.quantiles(found, n=100)
            print(f"        {name:9s} p50 {cuts[49]:8.1f} ms   p99 {cuts[98]:8.1f} ms")
    print(f"load {os.getloadavg()}")


if __name__ == "__main__":
    uvloop.run(main())
