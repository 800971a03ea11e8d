"""A sandbox, a database, and an executor that dies and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from aegis.local.postgres import DATABASE, Postgres
from aegis_sandbox.scenario import EXECUTOR_NODES
from tests.crash.client import Client
from tests.crash.history import Asked, Budget, History
from tests.crash.reading import read
from tests.crash.targets import Targets
from tests.crash.wire import Wire
from tests.e2e.executor.conftest import Stack
from tests.processes import Process, until

_END_OF_THE_LOCK = """
select pg_terminate_backend(pid) from pg_locks
where locktype = 'advisory' and objid = x'6a726e6c'::int and granted
  and database = (select oid from pg_database where datname = current_database())
"""
_NO_LIMIT = 1000
# A matrix does in minutes what should take a month, and most of it fails on purpose.
_GUARDS = """
cool_down_seconds = 0
relapse_seconds = 0
attempts = 100
[concurrent]
namespace = {no_limit}
global = {no_limit}
[hourly]
target = {hourly}
namespace = {no_limit}
global = {no_limit}
[storm]
share = 1
anomalous_min = 10000
[breakers]
consecutive = 100
share = 1
outcomes_min = 10000
"""


class World:
    """Everything a point needs; `fault` holds the executor's next write at the cluster."""

    def __init__(self, stack: Stack, wire: Wire, folder: Path, owner_url: str) -> None:
        self.stack = stack
        self.wire = wire
        self.cluster = stack.cluster
        self.targets = Targets(stack.cluster)
        self.client = Client(stack)
        kubeconfig = folder / "sandbox" / "kubeconfig"
        self._kubeconfig = wire.rewire(kubeconfig, folder / "sandbox" / "wired.kubeconfig")
        self.environment: dict[str, str] = {}
        self._guards = folder / "guards.toml"
        self._owner_url = owner_url
        self._writes = 0
        self._asked = 0

    async def start(self, failpoint: str = "") -> None:
        """Starts an executor, to die at a failpoint when one is named."""
        changes = {
            "AEGIS_KUBECONFIG": str(self._kubeconfig),
            "AEGIS_EXECUTOR_GUARDS": str(self._guards),
            "AEGIS_EXECUTOR_NODES": ",".join(EXECUTOR_NODES),
            "AEGIS_EXECUTOR_LOOK_SECONDS": "0.1",
            **self.environment,
        }
        if failpoint:
            changes |= {"AEGIS_FAILPOINT": failpoint, "AEGIS_PROFILE": "development"}
        await asyncio.to_thread(self.stack.start_executor, **changes)

    async def ready(self, failpoint: str, *, hourly: int | None) -> None:
        """Has an executor as a point wants it: `hourly` actions on one target, None: any number."""
        guards = _GUARDS.format(hourly=hourly or _NO_LIMIT, no_limit=_NO_LIMIT)
        if failpoint or not self._guards.exists() or self._guards.read_text() != guards:
            self._guards.write_text(guards)
            await self.down()
            await self.start(failpoint)
        await self.up()

    async def up(self) -> None:
        """Starts the executor unless it runs."""
        if self.stack.executor is None or not self.stack.executor.running():
            await self.start()

    async def down(self) -> None:
        """kill -9, when it runs."""
        if self.stack.executor is not None and self.stack.executor.running():
            await asyncio.to_thread(self.stack.executor.kill)

    @property
    def executor(self) -> Process:
        """The executor's process."""
        if self.stack.executor is None:
            raise RuntimeError("no executor was started")
        return self.stack.executor

    async def until_stopped(self) -> Process:
        """Waits until the executor has stopped itself, as if the machine had; returns it."""
        process = self.executor
        stopped = lambda: _state_of(process.pid) == "T"  # noqa: E731
        await asyncio.to_thread(until, stopped, lambda: "the failpoint was never reached")
        return process

    async def take_over(self) -> None:
        """Starts a second executor, once the database has given the first one up.

        The database ends the session that holds the journal's lock, as it does when it has not
        heard of its client for long enough. Other sessions of the first live on.
        """
        with psycopg.connect(self._owner_url, autocommit=True) as owner:
            owner.execute(_END_OF_THE_LOCK)
        await self.start()

    def go_on(self, process: Process) -> None:
        """Lets a stopped executor go on, as if nothing had been."""
        os.kill(process.pid, signal.SIGCONT)

    async def until_ended(self, process: Process) -> None:
        """Waits until a superseded executor has found out and ended."""
        gone = lambda: not process.running()  # noqa: E731
        await asyncio.to_thread(until, gone, lambda: "a superseded executor lives on")

    async def until_dead(self) -> None:
        """Waits until the executor has died by itself; AssertionError when it lives on."""
        dead = lambda: not self.executor.running()  # noqa: E731
        await asyncio.to_thread(until, dead, lambda: "the failpoint was never reached")

    def hold(self, where: str, seconds: float) -> None:
        """Holds the next write before or after its effect, or loses it (`instead`)."""
        self.cluster.tell("fault", where=where, seconds=seconds)

    async def until_held(self, where: str, *, undo: bool = False) -> None:
        """Waits until the write is held at the cluster; with `after`, until it took effect."""
        effects = 2 if undo else 1

        def there() -> bool:
            if where == "after":
                return len(self._effects()) >= effects
            return not self.cluster.fault_waits()

        await asyncio.to_thread(until, there, lambda: "nothing was sent")

    def begin(self) -> None:
        """What was seen and asked until now is not this point's."""
        self._writes = len(self.cluster.writes())
        self._asked = len(self.client.asked)

    def history(self, budgets: Iterable[Budget] = ()) -> History:
        """What is known about the requests of the current point."""
        writes = self.cluster.writes()[self._writes :]
        return self._read(writes, self.client.asked[self._asked :], budgets)

    def everything(self) -> History:
        """What is known about all that was ever asked."""
        return self._read(self.cluster.writes(), self.client.asked, ())

    def _read(
        self,
        writes: Sequence[Mapping[str, Any]],
        asked: Sequence[Asked],
        budgets: Iterable[Budget],
    ) -> History:
        return read(
            self.stack.journal,
            writes,
            asked,
            self.client.told,
            paused=self.client.paused,
            budgets=budgets,
        )

    def _effects(self) -> list[dict[str, Any]]:
        return [write for write in self.cluster.writes()[self._writes :] if write["changed"]]


@contextmanager
def world(postgres: Postgres) -> Iterator[World]:
    """A world in a database and a folder of its own; both are gone afterwards."""
    name = f"crash_{uuid.uuid4().hex[:12]}"
    with (
        tempfile.TemporaryDirectory(prefix="aegis-crash-") as folder,
        psycopg.connect(postgres.url(database="postgres"), autocommit=True) as owner,
    ):
        owner.execute(f"create database {name} template {DATABASE} strategy wal_log")
        stack = Stack(Path(folder), postgres, name)
        try:
            with Wire.to(Path(folder) / "sandbox" / "kubeconfig") as wire:
                yield World(stack, wire, Path(folder), postgres.url(database=name))
        finally:
            stack.close()
            owner.execute(f"drop database {name} with (force)")


def _state_of(pid: int) -> str:
    # The name before it is in brackets and may hold anything.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
