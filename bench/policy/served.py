"""Decisions over gRPC: Aegis beside Cerbos and beside what gRPC itself can do on this machine.

    python bench/policy/served.py
    python bench/policy/served.py --rules 1000 --seconds 2 --rounds 3 --json served.json
    python bench/policy/served.py --only aegis --server-env NAME=VALUE

One unary call for each question. The bench starts everything itself: a stack of Aegis, Cerbos on
the same rules with TLS and without, and bare echo servers of both kinds of gRPC's for Python. All
get the same questions from the same clients with as many calls in flight, and take turns.

    same      one question for ever: Aegis answers from memory (L1)
    known     more questions than memory holds, all asked shortly before: from Redis (L2)
    fresh     a question nobody asked before: a miss, evaluated

h2load can only send one body, so `known` and `fresh` are played by `replay`, and `same` by both.
"from" tells where a sample of Aegis' answers really came from; a server too slow to be asked all
of `known` within the minute that Redis keeps it answers from elsewhere, and the row says so.
Answers are checked with gRPC's own client before and after, since h2load does not look at a call's
status. Aegis speaks nothing but TLS, so its rows are compared with the TLS rows of others; cpu is
that of the server's process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from control_plane import source_of
from h2load import available, h2load
from questions import Request, fresh, requests
from replay import Load, Played, replay
from stage import add_options, everything
from targets import Target, cpu_seconds

from rules import World, make_world

# No server here answers more in a second; fresh questions are made for as many.
_RATE_MAX = 8_000
# Above what a server remembers in its own memory.
_KNOWN = 12_000
_MEANT = {"same": "memory", "known": "redis", "fresh": "engine"}
# An answer is kept there for a minute.
_KNOWN_SECONDS = 30.0


@dataclass(slots=True)
class Row:
    """One server asked in one way by one client, turn by turn."""

    target: Target
    mode: str
    client: str
    rates: list[float] = field(default_factory=list)
    p50s: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    failed: int = 0
    sources: Counter[str] = field(default_factory=Counter)

    @property
    def key(self) -> tuple[str, bool, str, str]:
        """Server, TLS, mode and client."""
        return self.target.name, self.target.load.roots is not None, self.mode, self.client

    def note(self, played: Played, cpu: float) -> None:
        """Adds a turn."""
        took = sorted(played.milliseconds)
        self.failed += played.failed
        if not took:
            return
        self.rates.append(len(took) / played.seconds)
        self.p50s.append(took[len(took) // 2])
        self.p99s.append(took[int(len(took) * 0.99)])
        self.cpu_us.append(cpu / len(took) * 1e6)
        if self.target.name == "aegis":
            self.sources.update(map(source_of, played.samples))


class Bench:
    """The questions, and the process that plays them."""

    def __init__(
        self, world: World, options: argparse.Namespace, pool: ProcessPoolExecutor
    ) -> None:
        self._world = world
        self._options = options
        self._pool = pool
        self.asked = requests(world, 600, options.seed)
        self._tags = iter(range(sys.maxsize))

    async def turn(self, row: Row) -> None:
        """Measures a row once."""
        target, seconds = row.target, self._options.seconds
        bodies = self._bodies(row)
        if row.mode == "known":
            await self._make_known(target.load, bodies)
        cpu = cpu_seconds(target.pid)
        if row.client == "h2load":
            played = await h2load(target.load, bodies[0], seconds)
        else:
            played = await self._play(target.load, bodies, seconds)
        row.note(played, cpu_seconds(target.pid) - cpu)

    async def _make_known(self, load: Load, bodies: list[bytes]) -> None:
        """Asks everything, twice if that is quick: a busy server may not pass on every answer."""
        played = await self._play(load, bodies, _KNOWN_SECONDS, once=True)
        if played.seconds < _KNOWN_SECONDS / 2:
            await self._play(load, bodies, _KNOWN_SECONDS / 2, once=True)

    def _bodies(self, row: Row) -> list[bytes]:
        encode = row.target.encode
        if row.mode == "same":
            return [encode(next(each for each in self.asked if each.allowed))]
        if row.mode == "known":
            return [encode(each) for each in self._fresh(_KNOWN)]
        return [encode(each) for each in self._fresh(int(self._options.seconds * _RATE_MAX))]

    def _fresh(self, count: int) -> list[Request]:
        return fresh(self._world, self.asked, count, f"{os.getpid()}-{next(self._tags)}")

    async def _play(
        self, load: Load, bodies: list[bytes], seconds: float, *, once: bool = False
    ) -> Played:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, _replay, load, bodies, seconds, once)


def _replay(load: Load, bodies: list[bytes], seconds: float, once: bool) -> Played:
    return replay(load, bodies, seconds, once=once)


def rows_of(targets: list[Target]) -> list[Row]:
    """Returns what is measured of each."""
    rows = []
    for target in targets:
        if available():
            rows.append(Row(target, "same", "h2load"))
        rows.append(Row(target, "same", "replay"))
        if target.name == "aegis":
            rows.append(Row(target, "known", "replay"))
        if not target.name.startswith("echo"):
            rows.append(Row(target, "fresh", "replay"))
    return rows


def ratio(row: Row, other: Row | None) -> float | None:
    """Returns the median over rounds of this rate by the other's; a round compares like loads."""
    pairs = zip(row.rates, other.rates, strict=False) if other is not None else ()
    each = [mine / its for mine, its in pairs]
    return statistics.median(each) if each else None


def show(rows: list[Row]) -> list[dict[str, object]]:
    """Prints the medians; returns everything."""
    of = {row.key: row for row in rows}
    print(
        f"{'':24s}{'asked':8s}{'client':8s}{'per s':>8s}{'p50 ms':>8s}{'p99 ms':>8s}{'cpu us':>8s}"
        f"{'/ aio':>8s}{'/ sync':>8s}{'/ cerbos':>9s}  failed  from"
    )
    shown = []
    for row in rows:
        name, tls, mode, client = row.key
        found: dict[str, object] = {"server": name, "tls": tls, "asked": mode, "client": client}
        shown.append(found)
        found |= {"failed": row.failed, "from": dict(row.sources), "rates": row.rates}
        label = f"{name}, {'TLS' if tls else 'no TLS'}"
        if not row.rates:
            print(f"{label:24s}{mode:8s}{client:8s} nothing was answered; {row.failed} failed")
            continue
        others = [of.get((f"echo {kind}", tls, "same", client)) for kind in ("aio", "sync")]
        # Cerbos remembers no answers: what Aegis has to look up is as fresh to it.
        others.append(of.get(("cerbos", tls, "same" if mode == "same" else "fresh", client)))
        ratios = [ratio(row, other) for other in others]
        found |= dict(zip(("of_aio", "of_sync", "of_cerbos"), ratios, strict=True))
        for key in ("rates", "p50s", "p99s", "cpu_us"):
            found[f"median_{key}"] = statistics.median(getattr(row, key))
        cells = "".join(f"{'-' if each is None else f'{each:.2f}':>8s}" for each in ratios)
        print(
            f"{label:24s}{mode:8s}{client:8s}{found['median_rates']:8.0f}"
            f"{found['median_p50s']:8.2f}{found['median_p99s']:8.2f}{found['median_cpu_us']:8.0f}"
            f"{cells} {row.failed:7d}  {_shares(row)}"
        )
    return shown


def _shares(row: Row) -> str:
    """Returns where answers came from, and whether that is what the row is about."""
    total = row.sources.total()
    shares = {name: count / total for name, count in row.sources.most_common()}
    text = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    meant = _MEANT[row.mode]
    return text if not total or shares.get(meant, 0) > 0.9 else f"{text}: says little of {meant}"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    options = parser.parse_args()
    world = make_world(options.rules, options.seed)
    with (
        tempfile.TemporaryDirectory(prefix="aegis-bench-") as scratch,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        async with everything(world, Path(scratch), options) as targets:
            bench, rows = Bench(world, options, pool), rows_of(targets)
            if not available():
                print("h2load skipped: it comes with nghttp2-client")
            in_flight = options.connections * options.streams
            print(f"load {os.getloadavg()}, {os.cpu_count()} cores, {in_flight} in flight")
            for target in targets:
                await target.check(bench.asked[:100])
            order = list(rows)
            for _ in range(options.rounds):
                order = order[1:] + order[:1]
                for row in order:
                    await bench.turn(row)
            for target in targets:
                await target.check(bench.asked[100:200])
        shown = show(rows)
        print(f"load {os.getloadavg()}")
    if options.json is not None:
        document = {"rules": options.rules, "load": os.getloadavg(), "rows": shown}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
