"""`Supervisor`: the parts of one home, started one by one, watched, taken down in reverse.

Who outlives what, when this process is killed with no chance to clean up: our programs are sent
SIGTERM by Linux and finish what they have begun; Valkey goes too; PostgreSQL stays, since the
programs need it to finish, and the next start adopts it. Whatever is still there by then is ended
by its process id, once its birth shows that it is the process we started.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from aegis.local import state
from aegis.local.parts import AlreadyRunning, OnProgress, Part, Progress, Step
from aegis.local.process import PartFailed, Program, birth, end_stranger
from aegis.local.sockets import private_directory

_POLL_SECONDS = 0.05
_READY_SECONDS = 60.0


class Supervisor:
    """Holds one home; an async context manager.

    Entering raises `AlreadyRunning`. If a part ends by itself, the body is cancelled, the rest is
    drained, and leaving raises `PartFailed`.
    """

    def __init__(self, home: Path, on_progress: OnProgress) -> None:
        self.parts: dict[str, Part] = {}
        self.report = on_progress
        self._home = home
        self._outside: list[state.PartState] = []
        # Parts whose end is no surprise: not up yet, or killed on purpose.
        self._unwatched: set[str] = set()
        self._lock: int | None = None
        self._watch: asyncio.Task[None] | None = None
        self._failure: PartFailed | None = None

    async def __aenter__(self) -> Self:
        """Takes the home, and ends what a killed supervisor left in it."""
        self._take_home()
        try:
            await asyncio.to_thread(self._end_leftovers)
        except BaseException:
            self._leave_home()
            raise
        self._watch = asyncio.create_task(self._watch_parts(_this_task()), name="watch parts")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops everything; raises `PartFailed` when that is why we are leaving."""
        body, cancelled = _this_task(), kind is asyncio.CancelledError
        if self._watch is not None:
            self._watch.cancel()
        if self._failure is not None:
            body.uncancel()
        elif not cancelled:
            # A fallen part is often noticed by the body first.
            self._failure = self._fallen()
        try:
            await self._stop()
        finally:
            self._leave_home()
        if self._failure is not None and not (cancelled and body.cancelling()):
            raise self._failure from (None if cancelled else error)

    def note_outside(self, name: str, address: str) -> None:
        """Lists a server that is not ours to start or stop."""
        self._outside.append(state.PartState(name, address))
        self.report(Progress(name, Step.ready, f"yours, at {address}"))

    async def add(self, part: Part) -> None:
        """Starts a part and waits until it is ready.

        Raises `PartFailed` when it ends before that or takes longer than a minute.
        """
        self.parts[part.name] = part
        self._unwatched.add(part.name)
        self.report(Progress(part.name, Step.starting))
        part.start()
        self._write_state()
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await self._until_ready(part)
        except TimeoutError:
            raise part.failed(f"was not ready after {_READY_SECONDS:.0f} s") from None
        except PartFailed as failure:
            self.report(Progress(part.name, Step.failed, failure.problem))
            raise
        self._unwatched.discard(part.name)
        self._write_state()
        self.report(Progress(part.name, Step.ready, part.address))

    async def _until_ready(self, part: Part) -> None:
        while True:
            if part.exit_status() is not None:
                if not part.start_again():
                    raise part.failed()
                self._write_state()
            if await part.ready():
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def run(self, program: Program, *, seconds: float) -> None:
        """Waits for a program that has an end; raises `PartFailed` unless it ends well."""
        self.report(Progress(program.name, Step.starting))
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if program.exit_status() is not None:
                        break
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise program.failed(f"took longer than {seconds:.0f} s") from None
        finally:
            program.stop(grace_seconds=1.0)
        if program.exit_status() != 0:
            self.report(Progress(program.name, Step.failed, program.failed().problem))
            raise program.failed()
        self.report(Progress(program.name, Step.ready))

    def kill(self, name: str) -> None:
        """Ends a part at once, as a power cut would; not reported as a crash."""
        self._unwatched.add(name)
        self.parts[name].kill()

    async def restart(self, name: str) -> None:
        """Stops a part if it still runs, and starts it again where it was."""
        self._unwatched.add(name)
        part = self.parts[name]
        if part.exit_status() is None:
            await asyncio.to_thread(part.stop)
        await self.add(part)

    def _take_home(self) -> None:
        # Not inherited by children (PEP 446): the lock ends with us, whatever they do.
        lock = os.open(private_directory(self._home / "run") / "up.lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode().strip()
            os.close(lock)
            raise AlreadyRunning(self._home, int(holder) if holder else None) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock = lock

    def _leave_home(self) -> None:
        if self._lock is not None:
            state.remove(self._home)
            os.close(self._lock)
            self._lock = None

    def _end_leftovers(self) -> None:
        earlier = state.read(self._home)
        for part in reversed(earlier.parts if earlier is not None else ()):
            # PostgreSQL is adopted instead.
            if part.name != "postgres" and part.pid is not None and part.born is not None:
                end_stranger(part.pid, part.born)

    async def _watch_parts(self, body: asyncio.Task[object]) -> None:
        # Asked rather than waited for: an adopted server is nobody's child here.
        while self._failure is None:
            await asyncio.sleep(_POLL_SECONDS)
            self._failure = self._fallen()
        body.cancel()

    def _fallen(self) -> PartFailed | None:
        for part in self.parts.values():
            if part.name not in self._unwatched and part.exit_status() is not None:
                failure = part.failed()
                self.report(Progress(part.name, Step.failed, failure.problem))
                return failure
        return None

    async def _stop(self) -> None:
        """Takes the parts down in reverse; being cancelled meanwhile means: do not wait."""
        hurry: asyncio.CancelledError | None = None
        for part in reversed(self.parts.values()):
            if part.exit_status() is None:
                self.report(Progress(part.name, Step.stopping))
            stopping = asyncio.create_task(asyncio.to_thread(part.stop))
            while not stopping.done():
                if hurry is not None:
                    part.kill()
                try:
                    await asyncio.shield(stopping)
                except asyncio.CancelledError as error:
                    hurry = error
            self.report(Progress(part.name, Step.stopped))
        if hurry is not None:
            raise hurry

    def _write_state(self) -> None:
        ours = tuple(
            state.PartState(
                part.name,
                part.address,
                token_address=part.token_address,
                log=str(part.log),
                pid=part.pid,
                born=birth(part.pid) if part.pid is not None else None,
            )
            for part in self.parts.values()
        )
        state.write(self._home, state.State(os.getpid(), (*self._outside, *ours)))


@contextmanager
def cancelled_by_signals() -> Iterator[None]:
    """Turns Ctrl-C, SIGTERM and a closed terminal into a cancellation of the current task.

    Each signal cancels once more, so that a second Ctrl-C hurries a stack that is draining.
    """
    loop, task = asyncio.get_running_loop(), _this_task()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _this_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("not inside a task")
    return task
