"""Each engine in a process of its own, so that loads, memory and pauses are its own.

    with Child("cedarpy", folder) as child:
        child.ask("load", seconds=60)

The parent tells one child at a time to work, so engines take turns on one core and none of them
measures another. A child that is not back in time is ended, and that is what is reported of it.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from contenders import CONTENDERS, read_requests

# A scan of 100,000 rules takes a second: a few of them still tell the median.
DECISIONS_MIN = 3
_SPAWN = get_context("spawn")


class Skipped(Exception):
    """This engine cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True)
class Grown:
    """Resident memory beyond what was there before loading: what stays, and the worst moment."""

    kept_bytes: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading took."""

    seconds: float
    memory: Grown


@dataclass(frozen=True, slots=True)
class Timed:
    """One turn: nanoseconds of each decision, its kind, and the processor's time of all of them."""

    nanoseconds: list[int]
    kinds: list[str]
    cpu_seconds: float


class Child:
    """A contender in another process; a context manager."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        ours, theirs = _SPAWN.Pipe()
        self._pipe = ours
        self._process = _SPAWN.Process(target=_serve, args=(name, folder, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def ask(self, command: str, *arguments: object, seconds: float) -> Any:
        """Has it do something within `seconds`; raises `Skipped`, and then it is gone."""
        try:
            self._pipe.send((command, arguments))
            failure, answer = f"{command} took more than {seconds:.0f} s", None
            if self._pipe.poll(seconds):
                failure, answer = self._pipe.recv()
        except (EOFError, OSError):
            failure, answer = f"its process ended at {command}", None
        if failure:
            self.end()
            raise Skipped(failure)
        return answer

    def end(self) -> None:
        """Ends its process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(name: str, folder: Path, pipe: Connection) -> None:
    try:
        contender = CONTENDERS[name]()
    except ImportError as error:
        failure = f"{error}; it is in the dependency group `bench`"
        pipe.recv()
        pipe.send((failure, None))
        return
    asked = read_requests(folder)
    prepared: list[Any] = []
    before = _forget_peak()

    def loaded() -> Loaded:
        nonlocal before
        before = _forget_peak()
        began = time.perf_counter()
        contender.load(folder)
        seconds = time.perf_counter() - began
        return Loaded(seconds, _grown(before))

    def answers(seconds: float) -> list[bool]:
        prepared.extend(map(contender.prepare, asked))
        end, found = time.perf_counter() + seconds, []
        for question in prepared:
            found.append(contender.decide(question))
            if time.perf_counter() > end and len(found) >= DECISIONS_MIN:
                break
        return found

    def timed(seconds: float, first: int) -> Timed:
        return _timed(contender.decide, prepared, [each.kind for each in asked], seconds, first)

    commands = {
        "load": loaded,
        "answers": answers,
        "timed": timed,
        "memory": lambda: _grown(before),
    }
    while True:
        try:
            command, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("", commands[command](*arguments)))
        except Exception as error:
            pipe.send((f"{type(error).__name__}: {str(error)[:200]}", None))


def _timed(
    decide: Callable[[Any], bool],
    prepared: list[Any],
    kinds: list[str],
    seconds: float,
    first: int,
) -> Timed:
    clock, took, count = time.perf_counter_ns, [], len(prepared)
    cpu = time.process_time()
    end, at = clock() + int(seconds * 1e9), first
    while True:
        question = prepared[at % count]
        began = clock()
        decide(question)
        ended = clock()
        took.append(ended - began)
        at += 1
        if ended > end and len(took) >= DECISIONS_MIN:
            break
    cpu = time.process_time() - cpu
    return Timed(took, [kinds[number % count] for number in range(first, at)], cpu)


def _forget_peak() -> int:
    """Returns the resident memory of now, from which a peak counts."""
    gc.collect()
    # Writing 5 here makes the peak start anew.
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _grown(before: int) -> Grown:
    peak = _status("VmHWM") - before
    gc.collect()
    # What was freed goes back, so that only what is held counts.
    ctypes.CDLL(None).malloc_trim(0)
    return Grown(_status("VmRSS") - before, peak)


def _status(name: str) -> int:
    """Returns a size of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
