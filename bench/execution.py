"""What governed execution costs: verifying, stopping, recovering, and actions a second.

    python bench/execution.py
    python bench/execution.py --seconds 10 --rounds 5 --json > figures.json
    python bench/execution.py --only verify stop

Starts three of everything, one after the other, in folders of their own: PostgreSQL with fsync
on, the sandbox, the witness, the executor and the server as processes, over mTLS. Budgets and
cool-downs are lifted. Closed loop, and the client is on the same cores. The executor's own steps
are timed inside it (`governed/executor.py`), which costs it some microseconds each.

    verify   steps 3 to 11 in this process; then, one at a time over mTLS, from asking the executor
             to its INTENT being committed: steps 1 to 13 with envelope, signatures, limits, all
             guards twice, the claim and its audit record. The cluster is a script in the executor's
             memory, and nothing of it is in between. Once with no history for the guards to
             read, once with what the default budget allows a day.
    stop     under eight submitters: from PauseExecution being answered, or the file being there, to
             the first refusal that arrives; and to the last write that was still begun.
    recover  kill -9 at once after the INTENT, and at once after a write whose answer has not come;
             until the journal has its end. The next process is started at once. A write
             of which nothing shows is waited for AEGIS_EXECUTOR_SETTLE_SECONDS by design.
    flow     scaling deployments to and fro through server, executor and sandbox, each verified;
             and once more with the script for a cluster: what is left is ours. Shares are means of
             what an action waits in each step.

Medians over the rounds. `--times` is how often it is stopped each way, and killed each way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import tempfile
from pathlib import Path

from governed.farm import Administrator, Farm
from governed.figures import Report
from governed.flowing import Stream, flow
from governed.house import House
from governed.recovering import recover
from governed.stopping import stop
from governed.verifying import verify

KINDS = ("verify", "flow", "stop", "recover")


async def with_script(report: Report, home: Path, options: argparse.Namespace, kind: str) -> None:
    seconds, rounds = options.seconds, options.rounds
    async with House(home, scripted=True) as house:
        if kind == "verify":
            await verify(report, house, seconds=seconds, rounds=rounds)
            return
        stream = Stream(house, Farm.scripted(10 * options.targets))
        submitters = options.submitters
        await flow(report, "script", stream, submitters=submitters, seconds=seconds, rounds=rounds)


async def with_cluster(report: Report, home: Path, options: argparse.Namespace) -> None:
    async with House(home) as house:
        administrator = Administrator(home)
        try:
            farm = await Farm.planted(administrator, options.targets)
            stream = Stream(house, farm)
            seconds, rounds = options.seconds, options.rounds
            if "flow" in options.only:
                submitters = options.submitters
                await flow(
                    report,
                    "sandbox",
                    stream,
                    submitters=submitters,
                    seconds=seconds,
                    rounds=rounds,
                )
            if "stop" in options.only:
                await stop(report, stream, times=options.times)
            if "recover" in options.only:
                await recover(report, house, administrator, farm, times=options.times)
        finally:
            await administrator.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=10, help="it is stopped, and killed")
    parser.add_argument("--submitters", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--targets", type=int, default=48)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--json", action="store_true", help="figures instead of lines")
    options = parser.parse_args()
    task = asyncio.current_task()
    assert task is not None
    # So that being told to end leaves as little behind as coming to the end.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    report = Report(quiet=options.json)
    report.load("before")
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as scratch:
        # One after the other: what one did is the history the guards of the next would read.
        for kind in ("verify", "flow"):
            if kind in options.only:
                await with_script(report, Path(scratch) / kind, options, kind)
        if set(options.only) - {"verify"}:
            await with_cluster(report, Path(scratch) / "sandbox", options)
    report.load("after")
    if options.json:
        print(json.dumps(report.figures, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
