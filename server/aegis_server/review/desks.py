"""Desks: processes at which rounds are examined, each of which can be killed alone.

An executor's pool cannot stop work that never ends, and one death in it breaks everybody's work.
So each desk is a process of its own behind a pipe. It says which examiner it begins with before it
does, so that whoever kills it knows whose fault it was. Desks are spawned when they are first
wanted, kept for the next round, and end with the process that started them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Protocol, TypeAlias

from aegis_server.review.case import Case, Ruling
from aegis_server.review.population import Population
from aegis_server.workers import end_with_parent, one_thread

# What an examination leaves for its evidence: bytes by update id.
Numbers: TypeAlias = Callable[[Case, Ruling, Population], Mapping[str, bytes]]

EVIDENCE = "evidence"
_JOIN_SECONDS = 5.0
# A process that starts imports what it needs: on a busy machine that takes longer than examining.
_START_SECONDS = 60.0


class Vet(Protocol):
    """`vetting.vet`, or a test's."""

    def __call__(
        self, case: Case, *, begin: Callable[[str], None], without: frozenset[str]
    ) -> Ruling:
        """Judges a round."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is done at a desk."""

    case: Case
    vet: Vet
    without: frozenset[str] = frozenset()
    numbers: Numbers | None = None


@dataclass(frozen=True, slots=True)
class Examined:
    """A ruling, and the numbers its evidence is made of, where those could be made."""

    ruling: Ruling
    numbers: Mapping[str, bytes] = field(default_factory=dict)


class Stuck(Exception):  # it is not an error of the program's
    """An examination that came to no end.

    `examiner` was at work; `how` says what became of it. `died` when its process did by itself,
    which may be an accident: the machine ran out of memory, or somebody killed it.
    """

    def __init__(self, examiner: str, how: str, *, died: bool = False) -> None:
        super().__init__(f"{examiner} {how}")
        self.examiner = examiner
        self.how = how
        self.died = died


class Desk:
    """One process; whoever has it, has it alone."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    @property
    def pid(self) -> int | None:
        """Of its process, once there is one."""
        return self._process.pid if self._process is not None else None

    async def do(self, task: Task, *, seconds: float) -> Examined:
        """Returns what came of it, or kills the process after so long and raises `Stuck`."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._do, task, seconds)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # Nobody waits for it any more, and the next round wants the desk.
            self.clear()
            with contextlib.suppress(Stuck):
                await work
            raise

    def clear(self) -> None:
        """Kills the process, whatever it does."""
        process = self._process
        if process is not None:
            process.kill()
            process.join(_JOIN_SECONDS)

    def _do(self, task: Task, seconds: float) -> Examined:
        pipe, at_work = self._ready(), "the start"
        deadline = time.monotonic() + _START_SECONDS
        ruling: Ruling | None = None
        # Writing the task waits for a reader, and reading an answer for the rest of it: neither has
        # a time limit of its own, but both end with the process.
        latest = threading.Timer(_START_SECONDS + seconds + _JOIN_SECONDS, self.clear)
        latest.daemon = True
        latest.start()
        try:
            _give(pipe, task)
            while True:
                if not pipe.poll(max(0.0, deadline - time.monotonic())):
                    self._leave()
                    return _with(ruling, Stuck(at_work, f"came to no end in {seconds:g} s"))
                kind, told = pipe.recv()
                if kind == "here":
                    deadline = time.monotonic() + seconds
                elif kind == "begin":
                    at_work = told
                elif kind == "ruling":
                    ruling = told
                elif kind == "numbers" and ruling is not None:
                    return Examined(ruling, told)
                else:
                    return _with(ruling, Stuck(at_work, f"failed: {told}"))
        except (EOFError, OSError):
            self._leave()
            return _with(ruling, Stuck(at_work, "ended its process", died=True))
        finally:
            latest.cancel()

    def _ready(self) -> Connection:
        if self._process is None or self._pipe is None or not self._process.is_alive():
            self._leave()
            context = get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_sit, args=(theirs,), daemon=True)
            self._process.start()
            # Only the process has its end now: when it dies, ours says so.
            theirs.close()
        return self._pipe

    def _leave(self) -> None:
        self.clear()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


class Desks:
    """At most `count` desks; `processes` are those that were started."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="desk")
        self._free = [Desk(self._threads) for _ in range(count)]
        self._all = tuple(self._free)
        self._turns = asyncio.Semaphore(count)

    @property
    def processes(self) -> list[int]:
        """Ids of the processes that were started."""
        return [desk.pid for desk in self._all if desk.pid is not None]

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Desk]:
        """Lends a desk, in the order of asking."""
        async with self._turns:
            desk = self._free.pop()
            try:
                yield desk
            finally:
                self._free.append(desk)

    def close(self) -> None:
        """Kills what still works and ends."""
        for desk in self._all:
            desk.clear()
        self._threads.shutdown()


def _with(ruling: Ruling | None, stuck: Stuck) -> Examined:
    """A ruling stands, whatever became of its evidence."""
    if ruling is None:
        raise stuck
    return Examined(ruling)


def _give(pipe: Connection, task: Task) -> None:
    """Sends a task, its updates one by one: pickled together they would be in memory twice."""
    updates = task.case.submissions
    bare = tuple(replace(each, data=b"") for each in updates)
    pipe.send(replace(task, case=replace(task.case, submissions=bare)))
    for each in updates:
        pipe.send_bytes(each.data)


def _taken(pipe: Connection) -> Task:
    """Returns the next task; raises EOFError when there will be none."""
    task: Task = pipe.recv()
    whole = tuple(replace(each, data=pipe.recv_bytes()) for each in task.case.submissions)
    return replace(task, case=replace(task.case, submissions=whole))


def _sit(pipe: Connection) -> None:
    """What a desk's process does: task by task, until nobody sends one."""
    end_with_parent()
    one_thread()
    with contextlib.suppress(EOFError):
        while True:
            # A call each: a desk that waits for the next round keeps nothing of the last.
            _do_next(pipe)


def _do_next(pipe: Connection) -> None:
    task = _taken(pipe)
    try:
        # What it takes to know the task is known now, and the time of the examination begins.
        pipe.send(("here", ""))
        ruling = task.vet(
            task.case, begin=lambda name: pipe.send(("begin", name)), without=task.without
        )
        pipe.send(("ruling", ruling))
        pipe.send(("begin", EVIDENCE))
        numbers = task.numbers
        made = numbers(task.case, ruling, Population(task.case)) if numbers else {}
        pipe.send(("numbers", dict(made)))
    except Exception as error:
        # Whatever it is, it is told and becomes a finding.
        pipe.send(("failed", f"{type(error).__name__}: {error}"[:200]))
