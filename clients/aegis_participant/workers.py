"""The processes in which applications run: one a run, warm from round to round.

A process is killed at the deadline of its task, and so is whatever it has started; the next task
of the run gets another. One more is kept ready, so that the first round of a run does not wait for
imports of many seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, cast

from aegis_participant import frames
from aegis_participant.apps import App

log = logging.getLogger(__name__)

_LOG_BYTES_MAX = 1024 * 1024
# A run that asks for nothing so long has probably ended; if not, it waits for imports once.
_IDLE_SECONDS = 900.0
# What an application has no use for and could carry out.
_SECRET_PREFIXES = ("AWS_", "AEGIS_")


class WorkFailed(Exception):
    """No answer came of it; `kind` is all that is told outside."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class NeverBegan(WorkFailed):
    """The process had ended before it had the whole message, so nothing was trained."""


class Worker:
    """One process, which belongs to a run from its first message on."""

    def __init__(self, app: App, log_file: Path) -> None:
        """Starts it; it imports the application meanwhile. Raises OSError."""
        self.app = app
        self.turn = asyncio.Lock()
        self.idle: asyncio.TimerHandle | None = None
        with log_file.open("ab") as output:
            # Popen and not the event loop, see aegis.serving.child.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "aegis_participant.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={k: v for k, v in os.environ.items() if not k.startswith(_SECRET_PREFIXES)},
                # A group of its own: Ctrl-C is for the program, a kill for all that is in there.
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._in = cast(BinaryIO, self._process.stdin)
        self._out = cast(BinaryIO, self._process.stdout)
        path = str(app.path) if app.path else ""
        # It may have ended already, as the first call will find.
        with contextlib.suppress(BrokenPipeError):
            frames.write(self._in, {"module": app.module, "path": path})

    @property
    def alive(self) -> bool:
        """Says whether the process runs."""
        return self._process.poll() is None

    def call(self, header: dict[str, Any], content: bytes, bytes_max: int) -> tuple[bytes, float]:
        """Returns the answer to a message, and its seconds; waits as long as it takes.

        Raises `WorkFailed`, `NeverBegan` when the process did not get the whole message.
        """
        try:
            frames.write(self._in, header, content)
        except OSError as error:
            self.kill()
            raise NeverBegan("WorkerDied") from error
        try:
            answer, data = frames.read(self._out, content_max=bytes_max)
        except (OSError, EOFError, ValueError) as error:
            self.kill()
            too_large = isinstance(error, frames.FrameError)
            raise WorkFailed("AnswerTooLarge" if too_large else "WorkerDied") from error
        if "error" in answer:
            raise WorkFailed(str(answer["error"])[:100])
        return data, float(answer["seconds"])

    def kill(self) -> None:
        """Ends the process and its children at once, and waits for that."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Ends the process and lets its pipes go."""
        if self.idle is not None:
            self.idle.cancel()
        self.kill()
        for pipe in (self._in, self._out):
            # What was not written is for nobody.
            with contextlib.suppress(OSError):
                pipe.close()


class Workers:
    """At most `at_once` processes with a run, and one without."""

    def __init__(self, folder: Path, *, at_once: int) -> None:
        self._log_file = folder / "worker.log"
        self._slots = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._workers: dict[str, Worker] = {}
        self._spare: Worker | None = None
        self._busy = 0
        self._threads = ThreadPoolExecutor(at_once + 1, "worker")

    def warm(self, app: App) -> None:
        """Starts the process that waits for the next run."""
        if self._spare is not None and (not self._spare.alive or self._spare.app is not app):
            self._spare.close()
            self._spare = None
        if self._spare is None:
            self._spare = self._start(app)

    async def answer(
        self,
        app: App,
        run_id: str,
        header: dict[str, Any],
        content: bytes,
        *,
        bytes_max: int,
        seconds: float,
    ) -> tuple[bytes, float]:
        """Returns what the application answers within `seconds`, and how long it took.

        Raises `WorkFailed`. A task that is cancelled takes its process with it.
        """
        try:
            async with asyncio.timeout(seconds), self._slots:
                try:
                    return await self._asked(app, run_id, header, content, bytes_max)
                except NeverBegan:
                    # It ended between two tasks; the next process has not seen this one either.
                    return await self._asked(app, run_id, header, content, bytes_max)
        except TimeoutError:
            raise WorkFailed("DeadlineExceeded") from None
        finally:
            if not self._busy:
                self.warm(app)

    async def _asked(
        self, app: App, run_id: str, header: dict[str, Any], content: bytes, bytes_max: int
    ) -> tuple[bytes, float]:
        worker = self._take(app, run_id)
        try:
            async with worker.turn:
                return await self._call(worker, header, content, bytes_max)
        finally:
            worker.idle = asyncio.get_running_loop().call_later(
                _IDLE_SECONDS, self._retire, run_id, worker
            )

    async def _call(
        self, worker: Worker, header: dict[str, Any], content: bytes, bytes_max: int
    ) -> tuple[bytes, float]:
        self._busy += 1
        loop = asyncio.get_running_loop()
        calling = loop.run_in_executor(self._threads, worker.call, header, content, bytes_max)
        try:
            return await asyncio.shield(calling)
        except asyncio.CancelledError:
            # Too late, or nobody wants it: a thread cannot be stopped, a process can.
            worker.kill()
            await asyncio.gather(calling, return_exceptions=True)
            raise
        finally:
            self._busy -= 1

    def _take(self, app: App, run_id: str) -> Worker:
        worker = self._workers.pop(run_id, None)
        if worker is not None and worker.idle is not None:
            worker.idle.cancel()
        if worker is not None and (not worker.alive or worker.app is not app):
            worker.close()
            worker = None
        if worker is None:
            if self._spare is not None and self._spare.alive and self._spare.app is app:
                worker, self._spare = self._spare, None
            else:
                worker = self._start(app)
        self._workers[run_id] = worker  # the last is the one used last
        for other in list(self._workers):
            if len(self._workers) <= self._at_once:
                break
            if not self._workers[other].turn.locked() and other != run_id:
                self._workers.pop(other).close()
        return worker

    def _retire(self, run_id: str, worker: Worker) -> None:
        if self._workers.get(run_id) is worker and not worker.turn.locked():
            self._workers.pop(run_id).close()

    def _start(self, app: App) -> Worker:
        if self._log_file.exists() and self._log_file.stat().st_size > _LOG_BYTES_MAX:
            self._log_file.replace(self._log_file.with_suffix(".log.1"))
        self._log_file.touch(mode=0o600)
        worker = Worker(app, self._log_file)
        log.info("worker %d for %s", worker.pid, app.name)
        return worker

    def close(self) -> None:
        """Ends every process."""
        for worker in (*self._workers.values(), *filter(None, [self._spare])):
            worker.close()
        self._workers.clear()
        self._spare = None
        self._threads.shutdown()


def flower_run_id(run_id: str) -> int:
    """Returns the number by which Flower knows a run."""
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8], "big") >> 1
