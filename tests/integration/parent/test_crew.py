"""A crew of stand-ins: who is started, when, and what happens when one dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from aegis_server.parent import crew as module
from aegis_server.parent.crew import CannotServe, Crew


class StandIn:
    """A worker that does as it is told."""

    def __init__(self, pid: int, *, ready: bool, status: int | None) -> None:
        self.pid = pid
        self.ready = ready
        self.began = float("inf")
        self.status = status
        self.stopped = False

    def exit_status(self) -> int | None:
        return self.status

    def stop(self) -> None:
        self.stopped = True
        self.status = 0 if self.status is None else self.status

    def kill(self) -> None:
        self.status = -9


class House:
    """A crew and all that were ever started in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.001)
        monkeypatch.setattr(module, "_BACK_OFF_SECONDS_MAX", 0.01)
        self.started: list[StandIn] = []
        self.forgotten: list[int] = []
        self.ready, self.status = True, None
        self.complete = asyncio.Event()
        self.crew = Crew(2, start=self._start, forget=self.forgotten.append)  # type: ignore[arg-type]

    def _start(self, index: int) -> StandIn:
        worker = StandIn(100 + len(self.started), ready=self.ready, status=self.status)
        self.started.append(worker)
        return worker

    def run(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.crew.run(self.complete.set))

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not true():
                await asyncio.sleep(0.001)


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


async def test_all_are_started_and_all_are_drained(house: House):
    """Ready is said once all are, and at the end everyone is asked to stop."""
    house.ready = False
    running = house.run()
    await house.until(lambda: len(house.started) == 2)
    house.started[0].ready = True
    await asyncio.sleep(0.02)
    assert not house.complete.is_set()
    house.started[1].ready = True
    await asyncio.wait_for(house.complete.wait(), 5)
    running.cancel()
    await asyncio.wait([running])
    assert [each.stopped for each in house.started] == [True, True]


async def test_one_that_cannot_start_ends_all(house: House):
    """Before all were ready once there is nothing to go on with."""
    house.ready = False
    running = house.run()
    await house.until(lambda: len(house.started) == 2)
    house.started[1].status = 2
    with pytest.raises(CannotServe, match="worker 1, process 101, ended with status 2"):
        await asyncio.wait_for(running, 5)
    assert house.started[0].stopped


async def test_one_that_dies_is_replaced_and_its_files_forgotten(house: House):
    """The other one is left alone."""
    running = house.run()
    await house.complete.wait()
    house.started[0].status = -9
    await house.until(lambda: len(house.started) == 3)
    assert house.forgotten == [100]
    assert house.crew.pids() == {0: 102, 1: 101}
    assert [place.restarts for place in house.crew.places] == [1, 0]
    running.cancel()
    await asyncio.wait([running])


async def test_one_that_keeps_dying_is_tried_for_ever_while_another_serves(house: House):
    """Later and later; it costs nobody else a call."""
    running = house.run()
    await house.complete.wait()
    house.ready, house.status = False, 2
    house.started[0].status = 2
    await house.until(lambda: len(house.started) > 12)
    assert not running.done()
    assert house.crew.places[0].failures > 5
    running.cancel()
    await asyncio.wait([running])


async def test_server_gives_up_when_nobody_is_left_and_nobody_starts(house: House):
    """Whoever supervises the server shall see that it is down."""
    running = house.run()
    await house.complete.wait()
    house.ready, house.status = False, 2
    for worker in house.started:
        worker.status = -11
    with pytest.raises(CannotServe, match="no worker is left"):
        await asyncio.wait_for(running, 5)


async def test_one_that_was_asked_to_end_is_replaced_at_once(house: House):
    """Status 0 is no failure: so workers can be renewed one by one."""
    running = house.run()
    await house.complete.wait()
    house.started[1].status = 0
    await house.until(lambda: len(house.started) == 3)
    assert house.crew.places[1].failures == 0
    running.cancel()
    await asyncio.wait([running])
