"""Our programs as processes, for tests that need them so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SECONDS = 60.0


class Process:
    """A program of ours, ready once it has written its address."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        self.ready_file = folder / "ready"
        self.ready_file.unlink(missing_ok=True)
        kept = self.clean()
        self._log = (folder / "log").open("ab")
        self._popen = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**kept, **environment, "AEGIS_READY_FILE": str(self.ready_file)},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.log = folder / "log"
        self.pid = self._popen.pid
        try:
            until(self._is_ready, lambda: f"did not start:\n{self.log.read_text()}")
        except BaseException:
            self.kill()
            raise
        self.address, *more = self.ready_file.read_text().splitlines()
        self.token_address = more[0] if more else ""

    @staticmethod
    def clean() -> dict[str, str]:
        """Our environment without what would configure a program of ours."""
        return {k: v for k, v in os.environ.items() if not k.startswith("AEGIS_")}

    def _is_ready(self) -> bool:
        if self._popen.poll() is not None:
            raise AssertionError(f"ended at once:\n{self.log.read_text()}")
        return self.ready_file.exists()

    def running(self) -> bool:
        return self._popen.poll() is None

    def kill(self) -> None:
        """kill -9."""
        self._popen.kill()
        self._popen.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        if self._popen.poll() is None:
            self._popen.terminate()
        try:
            return self._popen.wait(15)
        finally:
            self._popen.kill()
            self._log.close()


def until(
    true: Callable[[], Any],
    message: Callable[[], str] = lambda: "never came true",
    seconds: float = _SECONDS,
    *,
    every: float = 0.02,
) -> Any:
    """Waits until it is true and returns it; looks `every` so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(every)
    raise AssertionError(message())


def descendants(pid: int) -> list[int]:
    """The processes that a process and those it has started have started."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]
    return [each for child in children for each in (child, *descendants(child))]


def gone(pids: list[int]) -> bool:
    """Says whether none of them runs any more."""

    def alive(pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state not in "ZX"

    return not any(alive(pid) for pid in pids)
