"""Kills the executor wherever it can be killed, starts it again, and holds all stories together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.crash.checking import check
from tests.crash.history import Finding
from tests.crash.points import Point
from tests.crash.targets import spec_of
from tests.crash.world import World


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a point: how it ended, what was found, how long it took."""

    point: Point
    state: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def cell(self) -> str:
        """`ok`, or the kinds of what was found."""
        return " ".join(sorted({finding.kind for finding in self.findings})) or "ok"


async def run(
    world: World, points: Iterable[Point], tell: Callable[[Outcome], None]
) -> list[Outcome]:
    """Runs the points one after the other, and tells each as it is done."""
    outcomes = []
    for point in points:
        outcomes.append(await _run(world, point))
        tell(outcomes[-1])
    return outcomes


async def _run(world: World, point: Point) -> Outcome:
    began = time.monotonic()
    await world.ready(point.failpoint, hourly=point.hourly)
    target = await asyncio.to_thread(world.targets.fresh, point.verb, ill=point.undo)
    world.begin()
    request = world.client.prepare(spec_of(point.verb, target, takes_back=point.undo))
    findings = []
    try:
        await point.die(world, request)
    except* AssertionError as errors:
        # A point that did not happen proves nothing, so it must not look as if it had.
        asked = request.asked.request_id
        findings += [Finding("unexplained", asked, str(error)) for error in errors.exceptions]
        await world.down()
    await world.up()
    told = await world.client.learn(request)
    # One who was told may ask again, and must hear the same.
    await world.client.send(request)
    history = await asyncio.to_thread(world.history, point.budgets)
    findings += check(history)
    state = " ".join(filter(None, (told.state, told.reason))) or "nothing"
    return Outcome(point, state, tuple(findings), time.monotonic() - began)


def summary(outcomes: Sequence[Outcome], also: Sequence[Finding] = ()) -> str:
    """Returns the last line."""
    kinds = [finding.kind for outcome in outcomes for finding in outcome.findings]
    kinds += [finding.kind for finding in also]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("double", "lost", "unexplained"))
    return f"{len(outcomes)} points: {counts}"
