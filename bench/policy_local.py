"""Decisions a second in this process, beside asking the same server one by one and many at once.

    aegis up &
    python bench/policy_local.py
    python bench/policy_local.py --seconds 5 --rounds 5 --concurrency 64

One process, one thread, one core of its own; the rounds take turns. "reported" includes what it
costs this process to send every decision to the decision log: each round ends when all are there.
Prints the machine's load with the figures, because asking needs the server's core as well.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import grpc

from aegis.channel import Identity, connect, default_home
from aegis.decisions import DecisionClient, LocalDecisionPoint
from aegis.local.state import server_address
from aegis.v1 import policy_pb2, policy_pb2_grpc

# Decides for so many seconds; returns how many.
Way: TypeAlias = Callable[[float], Awaitable[int]]
UNREPORTED_MAX = 10_000_000


def question(number: int) -> dict[str, object]:
    return {
        "subject": "automation:autopilot",
        "resource": f"/clusters/sandbox/namespaces/shop/pods/web-{number % 50}",
        "action": "restart_pod",
        "attributes": {"namespace": "shop"},
    }


def here(point: LocalDecisionPoint) -> Way:
    async def decide(seconds: float) -> int:
        end, count = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            for _ in range(100):
                count += 1
                point.decide(**question(count))  # type: ignore[arg-type]
            await asyncio.sleep(0)
        while point.standing().unreported:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
        return count

    return decide


def in_flight(ask: Callable[[int], Awaitable[object]], concurrency: int) -> Way:
    async def decide(seconds: float) -> int:
        end, count = time.perf_counter() + seconds, 0

        async def worker() -> None:
            nonlocal count
            while time.perf_counter() < end:
                count += 1
                await ask(count)

        await asyncio.gather(*(worker() for _ in range(concurrency)))
        return count

    return decide


def unary(channel: grpc.aio.Channel) -> Callable[[int], Awaitable[object]]:
    stub = policy_pb2_grpc.PolicyServiceStub(channel)

    async def ask(number: int) -> object:
        return await stub.Evaluate(policy_pb2.EvaluateRequest(**question(number)), timeout=30)

    return ask


@asynccontextmanager
async def ways(channel: grpc.aio.Channel, concurrency: int) -> AsyncIterator[dict[str, Way]]:
    """Everything that is compared, ready to go."""
    client = DecisionClient(channel, timeout_seconds=30)

    async def check(number: int) -> object:
        return await client.check(**question(number))  # type: ignore[arg-type]

    async with (
        LocalDecisionPoint(channel, max_age_seconds=60, report=False) as silent,
        LocalDecisionPoint(channel, max_age_seconds=60, unreported_max=UNREPORTED_MAX) as reporting,
        client,
    ):
        async with asyncio.timeout(30):
            await silent.ready()
            await reporting.ready()
        yield {
            f"Evaluate, {concurrency} in flight": in_flight(unary(channel), concurrency),
            f"DecisionClient, {concurrency} at once": in_flight(check, concurrency),
            "DecisionClient, 1000 at once": in_flight(check, 1000),
            "local, reported": here(reporting),
            "local": here(silent),
        }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=default_home())
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    address = server_address(options.home)
    if address is None:
        raise SystemExit(f"nothing runs in {options.home}; start it with `aegis up`")
    print(f"load {os.getloadavg()}, {os.cpu_count()} cores")
    rates: dict[str, list[float]] = {}
    async with (
        connect(str(address), Identity.of("admin", options.home), retries=False) as channel,
        ways(channel, options.concurrency) as compared,
    ):
        for _ in range(options.rounds):
            for name, way in compared.items():
                began, used = time.perf_counter(), time.process_time()
                count = await way(options.seconds)
                rate = count / (time.perf_counter() - began)
                rates.setdefault(name, []).append(rate)
                cpu = (time.process_time() - used) / count * 1e6
                print(f"{name:32s} {rate:9.0f}/s  {cpu:7.1f} us of this process each")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"median {name:32s} {median:9.0f}/s  {median / first:7.1f}x")
    print(f"load {os.getloadavg()}")


if __name__ == "__main__":
    asyncio.run(main())
