"""How many `Evaluate` calls a second a server answers with one worker and with two.

    python bench/workers.py                       starts both, one after the other in each round
    python bench/workers.py --workers 1 2 4 --connections 64 --clients 2

The kernel spreads connections, so there are many, driven by client processes of their own: a client
in Python would otherwise be the limit. All servers run at the same time, on the same database and
Valkey, and are asked in turn. Clients, database and servers share the machine, so its load and how
busy its cores were are printed beside the rates: where one worker leaves none of them idle, a
second one has nothing to win.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc

from aegis.channel import OPTIONS, Identity
from aegis.local import pki
from aegis.local.postgres import OWNER, SERVER, Postgres
from aegis.local.programs import python, server_environment
from aegis.local.valkey import Valkey
from aegis.v1 import policy_pb2, policy_pb2_grpc
from aegis_server.migrating import migrate

START_SECONDS = 60


@contextmanager
def served(home: Path, name: str, workers: int, database: str, redis: str) -> Iterator[str]:
    """Runs a server and lends its address."""
    ready = home / f"{name}.ready"
    environment = server_environment(
        home,
        database_url=database,
        redis_url=redis,
        executor_address="127.0.0.1:1",
        witness_address="127.0.0.1:1",
    )
    with (home / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            python("aegis_server"),
            env={
                **environment,
                "AEGIS_LISTEN": "127.0.0.1:0",
                "AEGIS_WORKERS": str(workers),
                "AEGIS_LIMITS": "evaluate=100000/100000",
                "AEGIS_READY_FILE": str(ready),
            },
            stdout=log,
            stderr=log,
        )
    try:
        end = time.monotonic() + START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit((home / f"{name}.log").read_text())
            time.sleep(0.1)
        yield ready.read_text().split()[0]
    finally:
        process.terminate()
        process.wait()


async def drive(
    address: str, home: Path, connections: int, in_flight: int, seconds: float
) -> list[float]:
    """Keeps `in_flight` calls going on each connection; returns their milliseconds."""
    credentials = Identity.of("admin", home).credentials()
    options = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    channels = [
        grpc.aio.secure_channel(address, credentials, options=options) for _ in range(connections)
    ]
    latencies: list[float] = []

    async def ask(channel: grpc.aio.Channel, number: int, end: float) -> None:
        stub = policy_pb2_grpc.PolicyServiceStub(channel)
        while (start := time.perf_counter()) < end:
            number += 1
            request = policy_pb2.EvaluateRequest(
                subject="automation:autopilot",
                resource=f"/clusters/sandbox/namespaces/shop/pods/web-{number % 50}",
                action="restart_pod",
            )
            request.attributes.update({"namespace": "shop"})
            await stub.Evaluate(request, timeout=30)
            latencies.append((time.perf_counter() - start) * 1e3)

    async def all_ask(seconds: float) -> None:
        end = time.perf_counter() + seconds
        calls = [ask(each, n, end) for each in channels for n in range(in_flight)]
        await asyncio.gather(*calls)

    await all_ask(0.5)
    latencies.clear()
    await all_ask(seconds)
    for channel in channels:
        await channel.close()
    return latencies


def client(
    address: str, home: Path, connections: int, in_flight: int, seconds: float
) -> list[float]:
    return asyncio.run(drive(address, home, connections, in_flight, seconds))


def processor_seconds() -> tuple[float, float]:
    """Returns what all cores could have done since the machine started, and the idle part of it."""
    with Path("/proc/stat").open() as file:
        ticks = [float(field) for field in file.readline().split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--in-flight", type=int, default=2, help="on each connection")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rates: dict[int, list[float]] = {count: [] for count in options.workers}
    each = max(1, options.connections // options.clients)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aegis-bench-")))
        pki.ensure(home / "pki")
        (home / "blobs").mkdir()
        run = home / "run"
        postgres = stack.enter_context(
            Postgres(home / "data", run=run, log=home / "postgres.log", outlives_us=False)
        )
        valkey = stack.enter_context(Valkey(run=run, log=home / "valkey.log"))
        asyncio.run(migrate(postgres.url(OWNER)))
        addresses = {
            count: stack.enter_context(
                served(home, f"server-{count}", count, postgres.url(SERVER), valkey.url)
            )
            for count in options.workers
        }
        clients = stack.enter_context(
            ProcessPoolExecutor(options.clients, multiprocessing.get_context("spawn"))
        )
        told = f"{options.clients} clients, {each * options.clients} connections"
        print(f"{os.cpu_count()} cores, load {os.getloadavg()}; {told}, Python {sys.version[:6]}")
        for _ in range(options.rounds):
            for count, address in addresses.items():
                began = processor_seconds()
                driven = [
                    clients.submit(client, address, home, each, options.in_flight, options.seconds)
                    for _ in range(options.clients)
                ]
                latencies = [ms for future in driven for ms in future.result()]
                rates[count].append(len(latencies) / options.seconds)
                p50, p99 = (statistics.quantiles(latencies, n=100)[i] for i in (49, 98))
                total, idle = (b - a for a, b in zip(began, processor_seconds(), strict=True))
                load = os.getloadavg()[0]
                print(
                    f"{count} workers {rates[count][-1]:7.0f}/s"
                    f"  p50 {p50:6.1f} ms  p99 {p99:6.1f} ms"
                    f"  cores busy {100 * (1 - idle / total):3.0f} %  load {load:.1f}"
                )
    first = statistics.median(rates[options.workers[0]])
    for count, values in rates.items():
        median = statistics.median(values)
        print(f"median {count} workers {median:7.0f}/s  ratio {median / first:.2f}")
    print(f"load {os.getloadavg()}")


if __name__ == "__main__":
    main()
