"""Where and how the executor dies: a verb times a step."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from aegis_executor.failpoints import POINTS
from tests.crash.client import Request
from tests.crash.history import Budget
from tests.crash.targets import VERBS
from tests.crash.world import World
from tests.processes import until

# What can be taken back when it did not help.
UNDONE = ("scale_deployment", "rollback_deployment")
_HELD_SECONDS = 1.0
_MOMENT_SECONDS_MAX = 0.3

Death: TypeAlias = Callable[[World, Request], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Point:
    """One cell of the matrix. `undo` makes the action fail to help and order it undone."""

    group: str
    step: str
    verb: str
    die: Death
    failpoint: str = ""
    undo: bool = False
    # How many actions may begin in an hour on its target; None: any number.
    hourly: int | None = None
    # How long after the request, where that is drawn.
    seconds: float = 0.0

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """What its history is held against."""
        if self.hourly is None:
            return ()
        return (Budget("target", self.hourly, timedelta(hours=1)),)

    @property
    def name(self) -> str:
        """Its name for --only, e.g. killed/after-claim/restart_pod."""
        return f"{self.group}/{self.step}/{self.verb}"


def points(seed: int, moments: int) -> Iterator[Point]:
    """Yields all points; `moments` deaths a verb come at moments drawn from the seed."""
    drawn = random.Random(seed)
    for verb in VERBS:
        for step in POINTS:
            yield Point("killed", step, verb, _at_failpoint, failpoint=f"{step}:{verb}")
        for step in POINTS:
            failpoint = f"{step}:{verb}:stop"
            # Asked or not, it finds out and ends; that takes it some seconds, so once is enough.
            die = _fenced(ends=step == POINTS[-1])
            yield Point("fenced", step, verb, die, failpoint=failpoint)
        for where in ("before", "after", "instead"):
            yield Point("held", f"killed-{where}", verb, _killed(where))
            yield Point("held", f"cut-{where}", verb, _cut(where))
        yield Point("held", "504", verb, _lost)
        yield Point("held", "client-gone", verb, _client_gone)
        yield Point("held", "database-gone", verb, _database_gone)
        yield Point("held", "drained", verb, _drained)
        for number in range(1, moments + 1):
            seconds = drawn.uniform(0, _MOMENT_SECONDS_MAX)
            yield Point("drawn", f"moment-{number}", verb, _after(seconds), seconds=seconds)
        yield Point("paused", "before", verb, _paused_before)
        yield Point("paused", "meanwhile", verb, _paused_meanwhile)
    for step in ("after-claim", "after-mutate", "after-ending"):
        failpoint = f"{step}:restart_rollout"
        yield Point("spent", step, "restart_rollout", _spent, failpoint=failpoint, hourly=2)
    for verb in UNDONE:
        yield Point("undo", "nothing", verb, _alive, undo=True)
        for where in ("before", "after", "instead"):
            yield Point("undo", f"killed-{where}", verb, _killed(where, undo=True), undo=True)
            yield Point("undo", f"cut-{where}", verb, _cut(where, undo=True), undo=True)


async def _at_failpoint(world: World, request: Request) -> None:
    told = await world.client.send(request)
    assert told.lost, f"the failpoint was never reached: {told.state or told.reason}"
    await world.until_dead()


def _fenced(*, ends: bool) -> Death:
    async def die(world: World, request: Request) -> None:
        """It stops, a second one takes over and ends what it left, it goes on."""
        sent = asyncio.create_task(world.client.send(request))
        first = await world.until_stopped()
        try:
            await world.take_over()
            await world.client.learn(request)
            world.go_on(first)
            await sent
            if ends:
                await world.until_ended(first)
        finally:
            await asyncio.to_thread(first.kill)
            await sent

    return die


async def _paused_before(world: World, request: Request) -> None:
    """A pause is in force however often the executor starts."""
    async with world.client.pause(request.asked.action):
        await world.client.send(request)
        await world.down()
        await world.up()
        told = await world.client.learn(request)
    assert told.reason == "EXECUTION_PAUSED", f"paused, and it answered {told}"


async def _paused_meanwhile(world: World, request: Request) -> None:
    """It has been claimed and reads the cluster when the pause comes."""
    intent = f"select from aegis_executor.intent where request_id = '{request.asked.request_id}'"
    world.wire.stall()
    sent = asyncio.create_task(world.client.send(request))
    try:
        await asyncio.to_thread(until, lambda: world.stack.journal(intent))
        async with world.client.pause(request.asked.action):
            world.wire.flow()
            told = await sent
    finally:
        world.wire.flow()
        await sent
    assert told.reason == "EXECUTION_PAUSED", f"paused, and it answered {told}"


async def _spent(world: World, request: Request) -> None:
    """What began before the death is paid for after it."""
    await _at_failpoint(world, request)
    await world.up()
    await world.client.learn(request)
    for _ in range(2):
        told = await world.client.learn(world.client.prepare(request.spec))
    assert told.reason == "BUDGET_EXHAUSTED", f"the budget is spent, and it answered {told}"


async def _alive(world: World, request: Request) -> None:
    await world.client.send(request)


def _killed(where: str, *, undo: bool = False) -> Death:
    async def die(world: World, request: Request) -> None:
        async with asyncio.TaskGroup() as tasks:
            await _held(world, request, where, tasks, undo=undo)
            await world.down()

    return die


def _cut(where: str, *, undo: bool = False) -> Death:
    async def die(world: World, request: Request) -> None:
        async with asyncio.TaskGroup() as tasks:
            await _held(world, request, where, tasks, undo=undo)
            await asyncio.to_thread(world.wire.cut)

    return die


async def _held(
    world: World, request: Request, where: str, tasks: asyncio.TaskGroup, *, undo: bool
) -> None:
    """Returns when the write, or the one that takes it back, is held at the cluster."""
    if undo:
        await world.client.send(request)
    await asyncio.to_thread(world.hold, where, _HELD_SECONDS)
    if not undo:
        tasks.create_task(world.client.send(request))
    await world.until_held(where, undo=undo)


async def _lost(world: World, request: Request) -> None:
    await asyncio.to_thread(world.hold, "instead", 0)
    await world.client.send(request)


async def _client_gone(world: World, request: Request) -> None:
    await asyncio.to_thread(world.hold, "after", _HELD_SECONDS)
    await world.client.send(request, seconds=_HELD_SECONDS / 2)


async def _database_gone(world: World, request: Request) -> None:
    """The cluster's answer comes while the journal is away."""
    async with asyncio.TaskGroup() as tasks:
        await _held(world, request, "after", tasks, undo=False)
        with world.stack.database_away():
            await asyncio.sleep(_HELD_SECONDS)


async def _drained(world: World, request: Request) -> None:
    async with asyncio.TaskGroup() as tasks:
        await _held(world, request, "after", tasks, undo=False)
        assert await asyncio.to_thread(world.executor.stop) == 0, "the drain failed"


def _after(seconds: float) -> Death:
    async def die(world: World, request: Request) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(world.client.send(request))
            await asyncio.sleep(seconds)
            await world.down()

    return die


_QUICK = frozenset(
    {
        "killed/after-claim/restart_pod",
        "killed/after-attempt/rollback_deployment",
        "killed/after-mutate/scale_deployment",
        "held/cut-before/restart_rollout",
        "held/killed-after/cordon_node",
        "undo/killed-after/scale_deployment",
    }
)


def quick() -> list[Point]:
    """A few that differ as much as they can."""
    return [point for point in points(0, 0) if point.name in _QUICK]
