"""The workers of one server: all started, each started again when it dies, all drained at the end.

Until all have been ready once, one that ends means that the server cannot start. From then on the
others carry the calls, and it is tried again, later and later: what keeps one from starting, a
database that is away say, is no reason to end those that wait for it. Only when none is left and
one failed to start time and again, there is nothing to wait for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aegis_server.parent.worker import DRAIN_SECONDS, Worker

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
# Whoever served for so long did not die of how it was started.
_STEADY_SECONDS = 10.0
_BACK_OFF_SECONDS_MAX = 10.0
_FAILURES_MAX = 5


class CannotServe(RuntimeError):
    """No worker can be brought to serve."""


@dataclass(slots=True)
class Place:
    """One of the N: the worker that has it, or when the next one is started."""

    index: int
    worker: Worker | None = None
    told: bool = False
    failures: int = 0
    restarts: int = 0
    again_at: float = 0.0

    @property
    def ready(self) -> bool:
        """True while a worker serves here."""
        return self.worker is not None and self.worker.ready


class Crew:
    """Keeps `count` workers running; run `run()` as a part.

    `start` starts one, given its index; `forget` is told the process id of each that has ended.
    """

    def __init__(
        self, count: int, *, start: Callable[[int], Worker], forget: Callable[[int], None]
    ) -> None:
        self.places = [Place(index) for index in range(count)]
        self._start = start
        self._forget = forget
        self._complete = False

    def pids(self) -> Mapping[int, int]:
        """Returns the process id of each worker that runs, by its index."""
        return {p.index: worker.pid for p in self.places if (worker := p.worker) is not None}

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Runs until cancelled, then lets all drain; `on_ready` is called when all serve.

        Raises `CannotServe`, with none left.
        """
        try:
            while True:
                for place in self.places:
                    self._tend(place)
                if not self._complete and all(place.ready for place in self.places):
                    self._complete = True
                    on_ready()
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            await self._end()

    def _tend(self, place: Place) -> None:
        if place.worker is None:
            if time.monotonic() >= place.again_at:
                place.worker, place.told = self._start(place.index), False
            return
        status = place.worker.exit_status()
        if status is not None:
            self._ended(place, place.worker, status)
        elif place.ready and not place.told:
            place.told = True
            log.info("worker %d is ready, process %d", place.index, place.worker.pid)

    def _ended(self, place: Place, worker: Worker, status: int) -> None:
        was_ready = worker.ready
        place.worker = None
        self._forget(worker.pid)
        told = f"worker {place.index}, process {worker.pid}, ended with status {status}"
        if not self._complete:
            raise CannotServe(f"{told} before all were ready; its last lines say why")
        steady = was_ready and time.monotonic() - worker.began >= _STEADY_SECONDS
        # Status 0: somebody asked it to end. The place is filled again, and nothing is wrong.
        place.failures = 0 if status == 0 else 1 if steady else place.failures + 1
        none_left = not any(each.ready for each in self.places)
        if none_left and not was_ready and place.failures >= _FAILURES_MAX:
            raise CannotServe(f"{told}; no worker is left, and none starts")
        seconds = 0.0
        if place.failures > 1:
            seconds = min(0.25 * 2**place.failures, _BACK_OFF_SECONDS_MAX)
        place.restarts += 1
        place.again_at = time.monotonic() + seconds
        log.warning("%s; another one is started in %g s", told, seconds)

    async def _end(self) -> None:
        workers = [place.worker for place in self.places if place.worker is not None]
        for worker in workers:
            worker.stop()
        end = time.monotonic() + DRAIN_SECONDS
        while any(worker.exit_status() is None for worker in workers):
            if time.monotonic() >= end:
                log.critical("workers did not drain in %g s and are killed", DRAIN_SECONDS)
                for worker in workers:
                    worker.kill()
                end += DRAIN_SECONDS
            await asyncio.sleep(_POLL_SECONDS / 5)
