"""How many `Evaluate` calls a second one client gets from one server over mTLS.

    aegis up &
    python bench/evaluate.py                    repeated questions and new ones, side by side
    python bench/evaluate.py --seconds 10 --concurrency 64

Closed loop: `concurrency` calls are always in flight. Prints the machine's load with the figures,
because a client in Python on the same cores is half of what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from aegis.channel import Identity, connect, default_home
from aegis.local.state import server_address
from aegis.v1 import policy_pb2, policy_pb2_grpc

RESOURCE = "/clusters/sandbox/namespaces/shop/pods/web-{}"


async def drive(
    stub: policy_pb2_grpc.PolicyServiceStub,
    *,
    seconds: float,
    concurrency: int,
    name: Callable[[int], int],
) -> tuple[float, list[float]]:
    """Returns calls a second and every call's milliseconds."""
    latencies: list[float] = []
    counter = 0
    began = time.perf_counter()
    end = began + seconds

    async def worker() -> None:
        nonlocal counter
        while (start := time.perf_counter()) < end:
            counter += 1
            request = policy_pb2.EvaluateRequest(
                subject="automation:autopilot",
                resource=RESOURCE.format(name(counter)),
                action="restart_pod",
            )
            request.attributes.update({"namespace": "shop"})
            await stub.Evaluate(request, timeout=30)
            latencies.append((time.perf_counter() - start) * 1e3)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return len(latencies) / (time.perf_counter() - began), latencies


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, default=default_home())
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    address = server_address(options.home)
    if address is None:
        raise SystemExit(f"nothing runs in {options.home}; start it with `aegis up`")
    kinds: dict[str, Callable[[int], int]] = {
        "50 questions, repeated": lambda n: n % 50,
        "every question new": lambda n: n + int(time.time() * 1e6),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    print(f"load {os.getloadavg()}, {os.cpu_count()} cores, {options.concurrency} in flight")
    async with connect(address, Identity.of("admin", options.home), retries=False) as channel:
        stub = policy_pb2_grpc.PolicyServiceStub(channel)
        await drive(stub, seconds=1, concurrency=options.concurrency, name=lambda n: n % 50)
        for _ in range(options.rounds):
            for kind, name in kinds.items():
                rate, latencies = await drive(
                    stub, seconds=options.seconds, concurrency=options.concurrency, name=name
                )
                rates[kind].append(rate)
                p50, p99 = (statistics.quantiles(latencies, n=100)[i] for i in (49, 98))
                print(f"{kind:24s} {rate:7.0f}/s  p50 {p50:6.1f} ms  p99 {p99:6.1f} ms")
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    for kind, median in medians.items():
        print(f"median {kind:24s} {median:7.0f}/s")
    first, second = medians.values()
    print(f"ratio {first / second:.2f}")
    print(f"load {os.getloadavg()}")


if __name__ == "__main__":
    asyncio.run(main())
