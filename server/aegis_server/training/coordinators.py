"""Keeps one coordinator process alive for every run that has not ended.

A run is claimed by an advisory lock inside a transaction that stays open as long as its
coordinator: when this server dies, Postgres gives the claim back at once, and any replica takes
the run up again behind its last stored round.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from aegis.errors import AegisError
from aegis.serving.child import Child
from aegis.serving.database import Connection, Database
from aegis_server.training import store
from aegis_server.training.progress import Progress
from aegis_server.training.states import OPEN_STATES, Changes

log = logging.getLogger(__name__)

_SCAN_SECONDS = 2.0
_CLAIM_CHECK_SECONDS = 5.0
_KILL_SECONDS = 5.0
_RESTARTS = 3
_LAST_LINES = 5
# A coordinator gets no secret of ours through its environment.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """Who coordinators are to this server, and where their logs and scratch files go."""

    certificate: Path
    key: Path
    roots: Path
    folder: Path
    # Of the SuperLink for sites that run Flower.
    superlink: Path | None = None

    def environment(self, address: str) -> dict[str, str]:
        """Returns the whole environment of a coordinator that is to call `address`."""
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        flower = {"AEGIS_SUPERLINK": str(self.superlink)} if self.superlink else {}
        return (
            inherited
            | flower
            | {
                "AEGIS_ADDRESS": address,
                "AEGIS_TLS_CERT": str(self.certificate),
                "AEGIS_TLS_KEY": str(self.key),
                "AEGIS_TLS_CA": str(self.roots),
                "FLWR_HOME": str(self.folder / "flower"),
                "FLWR_TELEMETRY_ENABLED": "0",
                "FLWR_DISABLE_UPDATE_CHECK": "1",
                "OMP_NUM_THREADS": "1",
                "PYTHONUNBUFFERED": "1",
            }
        )


class ClaimLost(Exception):
    """The connection that held the claim is broken: the run may be another replica's by now."""


class Coordinators:
    """Starts and watches coordinators. Run `run()` as a task once the server is serving.

    At most `at_once` runs are coordinated by this server at the same moment; each takes a database
    connection and a CPU. The others wait, or go to another replica.
    """

    def __init__(
        self,
        database: Database,
        progress: Progress,
        settings: CoordinatorSettings,
        *,
        clock: Callable[[], datetime],
        changes: Changes,
        at_once: int = 4,
    ) -> None:
        self._database = database
        self._progress = progress
        self._settings = settings
        self._clock = clock
        self._changes = changes
        self._at_once = at_once
        self._address = ""
        self._supervised: dict[str, asyncio.Task[None]] = {}
        # Runs that were another replica's when we last looked.
        self._elsewhere: set[str] = set()

    async def run(self, address: str) -> None:
        """Supervises until cancelled; then ends its coordinators, whose runs stay open.

        `address` is the server's own mTLS port, `host:port`.
        """
        self._address = address
        try:
            while True:
                version = self._changes.version
                try:
                    await self._take_up()
                except AegisError as error:
                    log.warning("open runs cannot be looked for: %s", error.message)
                await self._changes.wait(version, _SCAN_SECONDS)
        finally:
            for task in self._supervised.values():
                task.cancel()
            await asyncio.gather(*self._supervised.values(), return_exceptions=True)

    async def _take_up(self) -> None:
        async with self._database.transaction() as connection:
            open_runs = await store.open_runs(connection)
        self._elsewhere.intersection_update(open_runs)
        # Those last, or a look at each of them would keep the waiting ones out again and again.
        for run_id in sorted(open_runs, key=self._elsewhere.__contains__):
            if run_id not in self._supervised and len(self._supervised) < self._at_once:
                task = asyncio.create_task(self._supervise(run_id), name=f"coordinate {run_id}")
                self._supervised[run_id] = task
                task.add_done_callback(partial(self._forget, run_id))

    def _forget(self, run_id: str, task: asyncio.Task[None]) -> None:
        del self._supervised[run_id]

    async def _supervise(self, run_id: str) -> None:
        try:
            async with self._database.transaction() as claim:
                if not await store.claim(claim, run_id):
                    self._elsewhere.add(run_id)
                    return
                self._elsewhere.discard(run_id)
                await self._coordinate(run_id, claim)
        except (AegisError, ClaimLost, OSError):
            # The run stays open: the next scan, here or at another replica, takes it up again.
            log.exception("coordinating %s was interrupted", run_id)

    async def _coordinate(self, run_id: str, claim: Connection) -> None:
        failures, reached = 0, -1
        while True:
            # Whoever holds the claim by now must not be disturbed by one more of ours.
            await _check_claim(claim)
            attempt = await self._next_attempt(run_id)
            if attempt is None:
                return
            status = await self._run_process(run_id, attempt, claim)
            await _check_claim(claim)
            state, round_now = await self._standing(run_id)
            if state not in OPEN_STATES:
                return
            failures = 1 if round_now > reached else failures + 1
            reached = max(reached, round_now)
            log.warning("coordinator %d of %s ended with status %s", attempt, run_id, status)
            if failures > _RESTARTS:
                lines = await asyncio.to_thread(_tail, self._log_file(run_id))
                await self._progress.give_up(
                    run_id, f"its coordinator died {failures} times without progress: {lines}"[:500]
                )
                return
            await asyncio.sleep(0.25 * 2**failures)

    async def _next_attempt(self, run_id: str) -> int | None:
        async with self._database.transaction() as connection:
            return await store.next_attempt(connection, run_id, self._clock())

    async def _standing(self, run_id: str) -> tuple[int, int]:
        async with self._database.transaction() as connection:
            run = await store.run_of(connection, run_id)
            last = (await store.last_rounds(connection, [run_id])).get(run_id)
        return (run.state if run else 0), (last.round if last else -1)

    async def _run_process(self, run_id: str, attempt: int, claim: Connection) -> int:
        """Runs one coordinator to its end and returns its exit status; ends it when cancelled.

        Raises `ClaimLost`.
        """
        log_file = self._log_file(run_id)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        child = Child(
            [
                *(sys.executable, "-m", "aegis_server.training.coordinator"),
                *("--run", run_id, "--attempt", str(attempt), "--parent", str(os.getpid())),
            ],
            environment=self._settings.environment(self._address),
            folder=self._settings.folder,
            log_file=log_file,
        )
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_CLAIM_CHECK_SECONDS):
                        return await child.ended()
                await _check_claim(claim)
        finally:
            await child.end(grace_seconds=_KILL_SECONDS)

    def _log_file(self, run_id: str) -> Path:
        return self._settings.folder / "logs" / f"{run_id}.log"


async def _check_claim(claim: Connection) -> None:
    try:
        await claim.execute("select 1")
    except Exception as error:
        raise ClaimLost("the claim's connection is broken") from error


def _tail(path: Path) -> str:
    with path.open(errors="replace") as file:
        return " | ".join(line.strip() for line in deque(file, _LAST_LINES))
