"""How long analytics, standings and the memory of a round take with a year of updates behind them.

    python bench/standing/analytics.py --updates 100000

A PostgreSQL of its own, with rows as the review room writes them: features of 25 numbers, sketches
of 4 KiB, findings of twelve sentences; 100 participants, 50 rounds of 20 updates a run. Seconds are
the median and the slowest of `--times`, each a whole method of the room, connection included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import psycopg
from prometheus_client import CollectorRegistry

from aegis.local.postgres import DATABASE, SERVER, Postgres
from aegis.serving.database import Database
from aegis_server.migrating import migrate
from aegis_server.review import sketches, store
from aegis_server.review.analytics.analytics import Analytics
from aegis_server.review.case import Judgement, Ruling, Verdict
from aegis_server.review.standing.counting import Counts
from aegis_server.review.standing.standings import Standings
from aegis_server.review.store import RoundKey

NOW = datetime(2026, 11, 26, tzinfo=UTC)
_PARTICIPANTS, _A_ROUND, _ROUNDS = 100, 20, 50

# `%(updates)s` updates over a year; who sent one follows from its number.
_ROWS = """
    create temporary table numbered as
    select n, 'run-' || n / 1000 as run_id, 1 + n %% 1000 / 20 as round,
           'site-' || n * 7919 / 20 * 20 %% 100 + n %% 20 as participant,
           timestamptz '2026-11-26' - interval '1 year' * (1 - n::float8 / %(updates)s)
               + interval '1 second' as at,
           case when n %% 17 = 0 then 'rejected' when n %% 101 = 0 then 'held' else 'accepted' end
               as verdict
    from generate_series(0, %(updates)s - 1) n;
    insert into aegis.review_round (run_id, round, attempt, closed_at, judged_at)
    select run_id, round, 1, min(at) - interval '0.8 seconds' * random(), min(at)
    from numbered group by run_id, round;
    insert into aegis.review_update (update_id, run_id, round, attempt, participant, enrolled,
                                     sha256, size_bytes, created_at, verdict, score, findings,
                                     reviewed_at)
    select 'upd-' || n, run_id, round, 1, participant, true, sha256(n::text::bytea), 10000, at,
           verdict, random(), %(findings)s, at
    from numbered;
    insert into aegis.review_memory (update_id, run_id, round, attempt, participant, enrolled,
                                     dataset, verdict, score, features, sketch, against,
                                     looks_like, created_at)
    select 'upd-' || n, run_id, round, 1, participant, true, 'digits', verdict, random(),
           %(features)s, %(sketch)s,
           case when verdict = 'accepted' then '{}' else array['direction', 'golden-set'] end,
           case when verdict = 'accepted' then '' else
               (array['sign-flip', 'label-flip', 'free-rider', 'scaling'])[1 + n %% 4] end,
           at
    from numbered;
    insert into aegis.review_override (update_id, from_verdict, to_verdict, by_whom, reason,
                                       decided_at, effective)
    select 'upd-' || n, 'rejected', 'accepted', 'user:olga', 'seen', at, true
    from numbered where n %% 1700 = 0;
"""


async def fill(database: Database, updates: int) -> None:
    """Writes the year."""
    random = np.random.default_rng(1)
    finding = {"examiner": "direction", "measure": "cosine", "value": 0.1, "threshold": 0.2}
    sentence = "points 0.31 away from where most updates of its round point, where 0.52 is usual"
    findings = [finding | {"strength": 0.3, "severity": "info", "text": sentence}] * 12
    features = {f"feature_{at}": float(random.normal()) for at in range(25)}
    values = {
        "updates": updates,
        "findings": json.dumps(findings),
        "features": json.dumps(features),
        "sketch": sketches.sketch(random.normal(size=5000).astype(np.float32)),
    }
    async with database.transaction() as connection:
        await connection.execute("set local statement_timeout = 0")
        for statement in _ROWS.strip().split(";\n"):
            await connection.execute(statement.strip().rstrip(";"), values)  # type: ignore[arg-type]


async def measured(name: str, deed: Callable[[], Awaitable[object]], times: int) -> None:
    """Prints how long a deed takes."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        await deed()
        seconds.append(time.perf_counter() - began)
    print(f"{name:44} {1000 * median(seconds):8.0f} ms   slowest {1000 * max(seconds):8.0f} ms")


async def measure(url: str, owner: str, updates: int, times: int) -> None:
    """Prints every figure."""
    await migrate(owner)
    database = Database(url, application="bench")
    await database.open()
    began = time.perf_counter()
    admin = Database(owner, application="bench", max_size=1)
    await admin.open()
    await fill(admin, updates)
    print(f"{updates:,} updates written in {time.perf_counter() - began:.0f} s")
    await admin.close()
    # As it would have come by and by.
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("vacuum analyze")
    analytics = Analytics(database, clock=lambda: NOW + timedelta(days=1))
    standings = Standings(database, clock=lambda: NOW, counts=Counts(CollectorRegistry()))
    year = NOW - timedelta(days=364)

    async def judged(size: int = _A_ROUND) -> None:
        names = [f"site-{at}" for at in range(size)]
        key = RoundKey(f"run-{time.monotonic_ns()}", 1, 1)
        async with database.transaction() as connection:
            await store.open_round(connection, key)
            for name in names:
                await store.insert(
                    connection,
                    key,
                    update_id=f"{key.run_id}-{name}",
                    participant=name,
                    enrolled=True,
                    sha256=bytes(32),
                    size_bytes=1,
                    by="service:coordinator",
                    now=NOW,
                )
        random = np.random.default_rng(size)
        sketched = sketches.sketches(random.normal(size=(size, 5000)).astype(np.float32))
        features = {f"feature_{at}": 0.1 for at in range(25)}
        ruling = Ruling(
            tuple(
                Judgement(
                    f"{key.run_id}-{name}",
                    Verdict.ACCEPTED,
                    0.1,
                    (),
                    features=features,
                    sketch=each,
                )
                for name, each in zip(names, sketched, strict=True)
            )
        )
        began = time.perf_counter()
        async with database.transaction() as connection:
            await standings.remember(connection, key, dataset="digits", ruling=ruling, now=NOW)
        spent.append(time.perf_counter() - began)

    await measured("analytics of a year", lambda: analytics.of(year, None, ""), times)
    await measured("analytics of 30 days", lambda: analytics.of(None, None, ""), times)
    await measured("analytics of one run", lambda: analytics.of(year, None, "run-7"), times)
    for size in (_A_ROUND, _PARTICIPANTS):
        spent: list[float] = []
        for _ in range(times):
            await judged(size)
        name = f"remembering and reckoning a round of {size}"
        print(f"{name:44} {1000 * median(spent):8.0f} ms   slowest {1000 * max(spent):8.0f} ms")
    await measured("standings, a page", lambda: standings.page(after=None, limit=100), times)
    await measured("standing of one", lambda: standings.get("site-1"), times)
    await database.close()


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as folder:
        home = Path(folder)
        with Postgres(
            home / "data", run=home / "run", log=home / "postgres.log", outlives_us=False
        ) as server:
            owner = server.url(database=DATABASE)
            asyncio.run(
                measure(server.url(SERVER, DATABASE), owner, options.updates, options.times)
            )


if __name__ == "__main__":
    main()
