"""kill -9 wherever the executor can be killed, and what is left of it: `make crash-matrix`."""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import json
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.crash.checking import check  # noqa: E402
from tests.crash.history import Finding  # noqa: E402
from tests.crash.matrix import Outcome, run, summary  # noqa: E402
from tests.crash.points import Point, points, quick  # noqa: E402
from tests.crash.showing import document, line, tables  # noqa: E402
from tests.crash.world import World, world  # noqa: E402

from aegis.local.postgres import Postgres  # noqa: E402


def main() -> int:
    """Returns 1 when anything happened twice, was lost, or cannot be explained."""
    parser = argparse.ArgumentParser(prog="crash_matrix", description=__doc__)
    parser.add_argument("--only", action="append", help="points like this, e.g. 'killed/*/scale*'")
    parser.add_argument("--quick", action="store_true", help="the few that `make test` runs")
    parser.add_argument("--moments", type=int, default=3, help="deaths at drawn moments, per verb")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--jobs", type=int, default=2, help="how many at the same time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the outcomes here, too")
    arguments = parser.parse_args()
    chosen = quick() if arguments.quick else list(points(arguments.seed, arguments.moments))
    if arguments.only:
        chosen = [p for p in chosen if any(fnmatch.fnmatch(p.name, o) for o in arguments.only)]
    if not chosen:
        parser.error("there is no such point")
    # Whoever ends us ends what we started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"{len(chosen)} points, seed {arguments.seed}", flush=True)
    outcomes, also = in_worlds(chosen, arguments.jobs)
    outcomes.sort(key=lambda outcome: chosen.index(outcome.point))
    print(f"\n{tables(outcomes)}\n")
    for finding in also:
        print(f"over everything: {finding.kind}: {finding.request_id}: {finding.sentence}")
    if arguments.json:
        found = document(outcomes, also, arguments.seed)
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    print(summary(outcomes, also))
    return 1 if also or any(outcome.findings for outcome in outcomes) else 0


def in_worlds(chosen: Sequence[Point], jobs: int) -> tuple[list[Outcome], list[Finding]]:
    """Runs the points in so many worlds; returns the outcomes, and what only the whole shows."""
    began = time.monotonic()
    outcomes: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(line(outcome, len(outcomes), len(chosen)), flush=True)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aegis-crash-")))
        postgres = Postgres(
            folder / "data",
            run=folder / "run",
            log=folder / "postgres.log",
            # Processes are killed here, not machines.
            settings={"fsync": "off", "full_page_writes": "off"},
            outlives_us=False,
        )
        stack.enter_context(postgres)
        worlds = [stack.enter_context(world(postgres)) for _ in range(jobs)]
        waiting = iter(chosen)
        asyncio.run(_all(worlds, waiting, tell))
        found = {finding for outcome in outcomes for finding in outcome.findings}
        whole = [finding for each in worlds for finding in check(each.everything())]
    print(f"\nin {time.monotonic() - began:.0f} s", flush=True)
    return outcomes, [finding for finding in whole if finding not in found]


async def _all(
    worlds: Sequence[World], waiting: Iterator[Point], tell: Callable[[Outcome], None]
) -> None:
    # Whoever is free takes the next.
    await asyncio.gather(*(run(each, waiting, tell) for each in worlds))


if __name__ == "__main__":
    sys.exit(main())
