"""The guards of one executor: asked before a claim, in it, and just before the change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from aegis.errors import AegisError
from aegis.serving.database import Connection, Database
from aegis_executor.catalogue.base import Gate
from aegis_executor.guards import store
from aegis_executor.guards.board import Board, board
from aegis_executor.guards.breakers import breaker_gates, open_breakers
from aegis_executor.guards.dependencies import Dependency
from aegis_executor.guards.epoch import Epoch
from aegis_executor.guards.gates import Asked, error_of, glass, passes
from aegis_executor.guards.history import History
from aegis_executor.guards.limits import attempts, concurrency, cool_down, hourly, target_lock
from aegis_executor.guards.memory import Memory
from aegis_executor.guards.meters import Meters
from aegis_executor.guards.numbers import Numbers
from aegis_executor.guards.pauses import PauseFile, kill_switch
from aegis_executor.guards.sensor import Sensor
from aegis_executor.guards.storm import Storm, storm_gate
from aegis_executor.guards.windows import window_gates

log = logging.getLogger(__name__)

_FIRST_LOOK_SECONDS = 3.0


def before_claiming(asked: Asked, history: History, numbers: Numbers) -> list[Gate]:
    """12: kill switch, clock, windows, storm mode, breakers."""
    now = history.now
    stops = kill_switch(asked, history.pauses, history.local_pause, now)
    soft = [
        *window_gates(asked.place.namespace, numbers.windows, numbers.freezes, now),
        storm_gate(history.storm, len(history.under_way)),
        *breaker_gates(asked, history, numbers),
    ]
    return [*stops, clock_gate(history.clock_trusted), *glass(soft, asked)]


def while_claiming(asked: Asked, history: History, numbers: Numbers) -> list[Gate]:
    """13: target lock, concurrency, budgets, cool-down, attempts."""
    soft = [
        *concurrency(asked, history, numbers),
        *hourly(asked, history, numbers),
        cool_down(asked, history, numbers),
        attempts(asked, history, numbers),
    ]
    return [target_lock(asked, history, numbers), *glass(soft, asked)]


def clock_gate(trusted: bool) -> Gate:
    """No age can be judged by a clock that nothing keeps."""
    if trusted:
        return passes("clock", "kept, or not asked about")
    return Gate("clock", False, "CLOCK_UNTRUSTED", "the kernel says that nothing keeps its clock")


class Guards:
    """Asks the gates, counts what they refuse, and keeps looking meanwhile.

    `clock_trusted` answers whether ages can be judged.
    """

    def __init__(
        self,
        database: Database,
        *,
        numbers: Numbers,
        epoch: Epoch,
        sensor: Sensor,
        pause_file: PauseFile,
        clock: Callable[[], datetime],
        clock_trusted: Callable[[], bool],
        meters: Meters,
        dependencies: Sequence[Dependency] = (),
    ) -> None:
        self._database = database
        self._numbers = numbers
        self._epoch = epoch
        self._sensor = sensor
        self._pause_file = pause_file
        self._clock = clock
        self._clock_trusted = clock_trusted
        self._meters = meters
        self._dependencies = tuple(dependencies)
        self._written: tuple[str, int] | None = None
        self._memory = Memory()

    async def enter(self, asked: Asked) -> None:
        """12: raises what refuses it before anything is claimed.

        `FailedPrecondition` (EXECUTION_PAUSED, CLOCK_UNTRUSTED, WINDOW_CLOSED, STORM_ACTIVE,
        BREAKER_OPEN) or `Unavailable` (DATABASE_UNAVAILABLE).
        """
        async with self._database.transaction() as connection:
            history = await self._history(connection, asked.request_id)
        self._refuse(before_claiming(asked, history, self._numbers), history.now)

    async def claim(self, connection: Connection, asked: Asked) -> None:
        """13, in the transaction that claims: raises what refuses it, and nothing is claimed.

        Beside what `enter` raises `Aborted` (TARGET_BUSY, FENCED), `ResourceExhausted`
        (BUDGET_EXHAUSTED, COOLING_DOWN) and `FailedPrecondition` (ATTEMPTS_EXHAUSTED). Everybody
        else who claims waits until the end of this transaction, and counts what it wrote.
        """
        # This lock before the other, always: a new epoch waits for whoever holds the first.
        await self._fence(connection)
        await store.take_turn(connection)
        history = await self._history(connection, asked.request_id)
        gates = before_claiming(asked, history, self._numbers)
        self._refuse([*gates, *while_claiming(asked, history, self._numbers)], history.now)

    async def recheck(self, asked: Asked) -> None:
        """16: raises what may have changed since the claim.

        `FailedPrecondition` (EXECUTION_PAUSED, CLOCK_UNTRUSTED), `Aborted` (FENCED) or
        `Unavailable` (DATABASE_UNAVAILABLE).
        """
        now = self._clock()
        async with self._database.transaction() as connection:
            pauses = await store.pauses(connection, now)
            await self._fence(connection)
        # The file last: it is what may be laid down while we waited for the database.
        stops = kill_switch(asked, pauses, self._pause_file.reason(), now)
        self._refuse([*stops, clock_gate(self._clock_trusted())], now)

    async def gates(self, asked: Asked) -> list[Gate]:
        """Returns every gate with its numbers, whatever it says.

        Raises `Unavailable` (DATABASE_UNAVAILABLE).
        """
        async with self._database.transaction() as connection:
            history = await self._history(connection, asked.request_id)
        numbers = self._numbers
        return [
            *before_claiming(asked, history, numbers),
            *while_claiming(asked, history, numbers),
        ]

    async def board(self) -> Board:
        """Returns pauses, breakers, storm mode and budgets as they are now."""
        async with self._database.transaction() as connection:
            history = await self._history(connection)
        breakers = [dependency.breaker() for dependency in self._dependencies]
        return board(history, self._numbers, self._epoch.number, breakers)

    async def begin(self) -> None:
        """Takes up storm mode where it was left, and looks for the first time."""
        async with self._database.transaction() as connection:
            storm = await store.last_storm(connection)
        self._sensor.begin(storm)
        self._written = (storm.state, storm.pace) if storm is not None else ("CALM", 0)
        # A cluster that takes its time must not hold up the start; until it answers we are blind.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK_SECONDS):
                await self.look()

    async def run(self) -> None:
        """Looks every few seconds until cancelled; run it as a part."""
        while True:
            await asyncio.sleep(self._numbers.storm.look_seconds)
            try:
                await self.look()
            except AegisError as error:
                log.warning("the guards cannot look: %s", error.message)

    async def look(self) -> None:
        """Looks at the workloads and the journal once, and writes down a change of storm mode.

        Raises `Unavailable` (DATABASE_UNAVAILABLE); the workloads have been looked at then.
        """
        under_way: set[tuple[str, str, str]] = set()
        try:
            async with self._database.transaction() as connection:
                history = await self._history(connection)
            under_way = {deed.target for deed in history.under_way}
        finally:
            await self._sensor.look(under_way)
        await self._write(self._sensor.storm, history.now)
        self._meters.show(
            open_breakers(history, self._numbers),
            self._sensor.storm,
            len(history.pauses) + bool(history.local_pause),
        )

    async def _write(self, storm: Storm | None, now: datetime) -> None:
        storm = storm or Storm("BLIND", now, "nobody could look for too long")
        if (storm.state, storm.pace) == self._written:
            return
        log.warning("storm mode is %s: %s", storm.state, storm.cause or "all is quiet")
        async with self._database.transaction() as connection:
            await self._epoch.check(connection)
            await store.insert_storm(connection, storm, now)
        self._written = (storm.state, storm.pace)

    async def _history(self, connection: Connection, besides: str | None = None) -> History:
        now = self._clock()
        memory = self._numbers.memory
        return History(
            now=now,
            deeds=await self._memory.deeds(connection, now=now, memory=memory, besides=besides),
            pauses=await store.pauses(connection, now),
            storm=self._sensor.storm,
            local_pause=self._pause_file.reason(),
            clock_trusted=self._clock_trusted(),
        )

    async def _fence(self, connection: Connection) -> None:
        try:
            await self._epoch.check(connection)
        except AegisError:
            self._meters.refused("epoch")
            raise

    def _refuse(self, gates: Sequence[Gate], now: datetime) -> None:
        for gate in gates:
            if not gate.passed:
                self._meters.refused(gate.name)
                raise error_of(gate, now)
