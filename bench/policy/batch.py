"""Many questions in one call: decisions a second, and what one costs the server's processor.

    python bench/policy/batch.py
    python bench/policy/batch.py --rules 1000 --size 100 --seconds 2 --rounds 3 --json batch.json

BatchEvaluate on a stack that the bench starts itself, as `served` does: a batch that is repeated,
so that all of it is remembered (by h2load and by `replay`), and batches of questions that nobody
asked before. "a core" is what one core of the server's own process would do; what PostgreSQL takes
to record every decision is not in it. Before and after, the answers of a
batch are compared with the right ones, in their order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import grpc
from control_plane import batch_body
from h2load import available, h2load
from questions import Request, fresh, requests
from replay import Load, replay
from stage import add_options, everything
from targets import cpu_seconds

from aegis.v1 import policy_pb2
from rules import World, make_world

_METHOD = "/aegis.v1.PolicyService/BatchEvaluate"
_DECISIONS_MAX = 100_000


@dataclass(slots=True)
class Row:
    """One way of asking, turn by turn."""

    mode: str
    client: str
    decisions: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50s: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    failed: int = 0


async def turn(row: Row, load: Load, bodies: list[bytes], pid: int, options: argparse.Namespace,
               pool: ProcessPoolExecutor) -> None:  # fmt: skip
    """Measures a row once."""
    before = cpu_seconds(pid)
    if row.client == "h2load":
        played = await h2load(load, bodies[0], options.seconds)
    else:
        loop = asyncio.get_running_loop()
        played = await loop.run_in_executor(pool, replay, load, bodies, options.seconds)
    cpu, took = cpu_seconds(pid) - before, sorted(played.milliseconds)
    row.failed += played.failed
    if took:
        answered = len(took) * options.size
        row.decisions.append(answered / played.seconds)
        row.cpu_us.append(cpu / answered * 1e6)
        row.p50s.append(took[len(took) // 2])
        row.p99s.append(took[int(len(took) * 0.99)])


async def check(load: Load, asked: list[Request]) -> None:
    """Ends the run when a batch is answered wrongly."""
    if load.roots is None:
        raise ValueError("Aegis speaks TLS")
    credentials = grpc.ssl_channel_credentials(load.roots.read_bytes())
    async with grpc.aio.secure_channel(load.address, credentials) as channel:
        call = channel.unary_unary(load.path)
        metadata = [("authorization", load.authorization)]
        body = await call(batch_body(asked), timeout=60, metadata=metadata)
    answers = policy_pb2.BatchEvaluateResponse.FromString(body).responses
    for request, answer in zip(asked, answers, strict=True):
        if (answer.effect == policy_pb2.EFFECT_ALLOW) != request.allowed:
            raise SystemExit(f"aegis answers {answer} to {request}")


def bodies_of(row: Row, world: World, asked: list[Request], size: int, tag: str) -> list[bytes]:
    """Returns batches: one for ever, or new ones for a turn."""
    if row.mode == "same":
        return [batch_body(asked[:size])]
    questions = fresh(world, asked, _DECISIONS_MAX // size * size, tag)
    return [batch_body(questions[at : at + size]) for at in range(0, len(questions), size)]


def show(rows: list[Row], size: int) -> list[dict[str, object]]:
    """Prints medians; returns them."""
    print(
        f"batches of {size}   client   decisions/s  cpu us each  a core/s   p50 ms   p99 ms  failed"
    )
    shown = []
    for row in rows:
        found: dict[str, object] = {"asked": row.mode, "client": row.client, "failed": row.failed}
        shown.append(found)
        if not row.decisions:
            print(f"{row.mode:16s} {row.client:8s} nothing was answered; {row.failed} failed")
            continue
        names = ("decisions", "cpu_us", "p50s", "p99s")
        rate, cpu, p50, p99 = (statistics.median(getattr(row, name)) for name in names)
        found |= {"decisions_a_second": rate, "cpu_us": cpu, "p50_ms": p50, "p99_ms": p99}
        found["decisions_a_core_second"] = 1e6 / cpu
        print(
            f"{row.mode:16s} {row.client:8s} {rate:11,.0f} {cpu:12.1f} {1e6 / cpu:9,.0f}"
            f" {p50:8.1f} {p99:8.1f} {row.failed:7d}"
        )
    return shown


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--size", type=int, default=100, help="questions of a batch")
    # Fewer in flight than single questions: a batch is a turn's worth of work by itself.
    parser.set_defaults(only=["aegis"], streams=2)
    options = parser.parse_args()
    world = make_world(options.rules, options.seed)
    asked = requests(world, max(600, options.size), options.seed)
    rows = [Row("same", "h2load")] if available() else []
    rows += [Row("same", "replay"), Row("fresh", "replay")]
    with (
        tempfile.TemporaryDirectory(prefix="aegis-bench-") as scratch,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        async with everything(world, Path(scratch), options) as (target, *_):
            load = replace(target.load, path=_METHOD)
            in_flight = options.connections * options.streams
            print(f"load {os.getloadavg()}, {os.cpu_count()} cores, {in_flight} batches in flight")
            await check(load, asked[: options.size])
            order = list(rows)
            for number in range(options.rounds):
                order = order[1:] + order[:1]
                for row in order:
                    bodies = bodies_of(row, world, asked, options.size, f"{os.getpid()}-{number}")
                    await turn(row, load, bodies, target.pid, options, pool)
            await check(load, asked[-options.size :])
        shown = show(rows, options.size)
        print(f"load {os.getloadavg()}")
    if options.json is not None:
        document = {"rules": options.rules, "load": os.getloadavg(), "rows": shown}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
