"""A Flower application of somebody else over our own stream: unchanged, at sites that are programs.

The application is in a folder of the server and of each site, pinned by the same digest.
"""

from __future__ import annotations

import asyncio
import csv
import json
import re
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer
from tests.attending import World

from aegis.local import pki
from aegis.serving.database import Database
from aegis.v1 import training_pb2
from aegis_learning.datasets import load
from aegis_learning.pinning import app_digest
from aegis_learning.schema import Schema

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

APPS = Path(__file__).parents[2] / "apps"
DIGEST = app_digest(APPS / "quickstart")
SITES = ("hospital-a", "hospital-b", "hospital-c")

# The coordinator's part in a process of its own, as it is in earnest.
_COORDINATOR = """
import asyncio, json, sys, time
from pathlib import Path

from google.protobuf import json_format

from aegis.channel import Identity, connect
from aegis.v1 import training_pb2, training_pb2_grpc
from aegis_server.training.aegis_grid import AegisGrid
from aegis_server.training.application_grid import ApplicationGrid
from aegis_server.training.applications import Application

order = json.loads(sys.argv[1])
sites = [training_pb2.Site(name=n, node_id=i, examples=1) for n, i in order["sites"]]

def advance(number):
    print("ROUND", number, time.monotonic(), flush=True)
    if number > 1:
        sys.stdin.readline()

async def main():
    identity = Identity.of("coordinator", Path(order["folder"]))
    async with connect(order["address"], identity) as channel:
        stub = training_pb2_grpc.CoordinatorServiceStub(channel)
        loop = asyncio.get_running_loop()
        grid = AegisGrid(stub, loop, run_id=order["run"], attempt=1, sites=sites, seconds=60.0)
        apps = Path(order["apps"])
        application = Application.find(apps, "quickstart", bytes.fromhex(order["digest"]))
        config = {"num-server-rounds": order["rounds"]}
        grid.begin(1)
        await asyncio.to_thread(application.run, ApplicationGrid(grid, advance), config)
        print("ROUND", 0, time.monotonic(), flush=True)

asyncio.run(main())
"""


@pytest.fixture
async def world(
    server_tables: str, server_database_url: str, tmp_path: Path
) -> AsyncIterator[World]:
    """A fresh database, certificates, and three enrolled hospitals."""
    pki.ensure(tmp_path / "pki")
    database = Database(server_database_url, application="test")
    await database.open()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        world = World(server_database_url, tmp_path, stack, database)
        await world.enrol(*SITES)
        yield world


@dataclass
class Program:
    """A site's program, and where it writes."""

    process: subprocess.Popen[bytes]
    log: Path


def site(world: World, name: str, number: int, address: str) -> Program:
    """Starts a site as its operator would: a folder, and the program."""
    folder, certificates, data = world.folder / name, world.folder / "pki", load("breast-cancer")
    (folder / "schemas").mkdir(parents=True)
    for source, target in ((f"{name}.crt", "site.crt"), (f"{name}.key", "site.key")):
        (folder / target).write_bytes((certificates / source).read_bytes())
    (folder / "roots.crt").write_bytes((certificates / "ca.crt").read_bytes())
    (folder / "schemas" / "breast-cancer.json").write_text(json.dumps(data.schema.to_json()))
    _write_rows(folder / "rows.csv", data.schema)
    (folder / "site.toml").write_text(
        f'[server]\naddress = "{address}"\n'
        f'[participant]\nname = "{name}"\ntrust_domain = "aegis.local"\n'
        '[data.breast-cancer]\nfile = "rows.csv"\npublic = true\n'
        f'[apps.quickstart]\nmodule = "quickstart.client_app:app"\npath = "{APPS}/quickstart"\n'
        f'sha256 = "{DIGEST.hex()}"\n'
        f"node_config = {{ partition-id = {number}, num-partitions = {len(SITES)} }}\n"
        "run_config = { local-steps = 20, learning-rate = 0.5 }\n"
    )
    log = folder / "log"
    with log.open("ab") as output:
        command = [sys.executable, "-m", "aegis_participant", "--dir", str(folder)]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    world.stack.callback(process.wait)
    world.stack.callback(process.terminate)
    return Program(process, log)


def _write_rows(file: Path, schema: Schema) -> None:
    """Some rows that suit the schema; the application brings its own."""
    x, y = load_breast_cancer(return_X_y=True)
    with file.open("w", newline="") as output:
        table = csv.writer(output)
        table.writerow([*(feature.name for feature in schema.features), schema.label])
        table.writerows(
            [*row, schema.classes[label]] for row, label in zip(x[:40], y[:40], strict=True)
        )


async def test_an_application_trains_unchanged_at_sites_that_are_programs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's FedAvg over mutual TLS and our stream, train and evaluate in each round."""
    plan = training_pb2.RunPlan(dataset="breast-cancer", model="mlp", rounds=5, participants=3)
    plan.app.name, plan.app.sha256 = "quickstart", DIGEST
    monkeypatch.setattr("tests.attending.PLAN", plan)
    server, run_id = await world.server(), await world.run(*SITES)
    programs = [site(world, name, n, server.address) for n, name in enumerate(SITES)]
    sites = [(each.name, each.node_id) for each in await world.sites(run_id)]
    order = {
        "run": run_id,
        "sites": sites,
        "address": server.address,
        "rounds": 4,
        "folder": str(world.folder),
        "apps": str(APPS),
        "digest": DIGEST.hex(),
    }
    coordinator = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _COORDINATOR, json.dumps(order)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert coordinator.stdin is not None
    assert coordinator.stdout is not None
    times, printed, accuracy = [], "", None
    while line := (await coordinator.stdout.readline()).decode():
        printed += line
        if match := re.match(r"ROUND (\d+) ([0-9.]+)", line):
            times.append(float(match[2]))
            if int(match[1]) > 1:
                await world.complete(run_id, int(match[1]) - 1)
                coordinator.stdin.write(b"\n")
                await coordinator.stdin.drain()
        if match := re.match(r"accuracy after 4 rounds: ([0-9.]+)", line):
            accuracy = float(match[1])
    said = printed + "".join(program.log.read_text() for program in programs)
    assert await coordinator.wait() == 0, said
    assert accuracy is not None, said
    assert accuracy > 0.95
    rounds = [after - before for before, after in pairwise(times)]
    assert statistics.median(rounds[1:]) < 5.0, rounds
    print("seconds a round:", [round(seconds, 2) for seconds in rounds])  # noqa: T201
