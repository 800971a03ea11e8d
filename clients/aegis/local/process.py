"""Child processes that are watched, stopped, and never forgotten.

A process id alone is not an identity: the kernel hands it out again. Everything here that signals
a process it did not start first compares its `birth`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_POLL_SECONDS = 0.02


class PartFailed(RuntimeError):
    """A part of the stack ended, or never came up; `log_tail` holds its last words."""

    def __init__(self, name: str, problem: str, log_tail: Sequence[str] = ()) -> None:
        super().__init__("\n    ".join([f"{name} {problem}", *log_tail]))
        self.name = name
        self.problem = problem
        self.log_tail = tuple(log_tail)


class Program:
    """One program in a session of its own, its output in a log file.

    In its own session a Ctrl-C at the terminal reaches us and not the child, so that we decide the
    order in which things stop; and whatever the child starts can be swept away with its group.
    `dies_with_us` is the signal Linux sends the child when we are killed without a chance to stop
    it; None lets it live on.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        dies_with_us: signal.Signals | None = signal.SIGTERM,
    ) -> None:
        prefix = parent_death_signal(dies_with_us) if dies_with_us is not None else []
        log.parent.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        self._swept = False
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*prefix, *command],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id, which stays ours until the exit status was collected."""
        return self._process.pid

    def exit_status(self) -> int | None:
        """Returns None while it runs, else its status, negative for a signal."""
        status = self._process.poll()
        if status is not None and not self._swept:
            self._swept = True
            # What it started and left behind. At once: a group keeps its number only as long as
            # it has a member.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return status

    def stop(self, *, first: signal.Signals = signal.SIGTERM, grace_seconds: float = 10.0) -> None:
        """Asks with `first`, and insists with SIGKILL after the grace."""
        if self.exit_status() is None:
            self._process.send_signal(first)
            try:
                self._process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self.exit_status()

    def kill(self) -> None:
        """Ends it and its descendants at once, as a power cut would."""
        self._process.kill()
        self._process.wait()
        self.exit_status()

    def failed(self, problem: str | None = None) -> PartFailed:
        """Returns the exception that tells how it ended, with its last log lines."""
        return PartFailed(
            self.name, problem or ended(self.exit_status()), tail(self.log, self._log_start)
        )


def ended(status: int | None) -> str:
    """Returns an exit status in words."""
    if status is None:
        return "ended"
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def tail(log: Path, start: int = 0, *, lines: int = 12) -> list[str]:
    """Returns the last lines a log gained after byte `start`, at most 16 KiB of them."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - 16_384))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def parent_death_signal(number: signal.Signals) -> list[str]:
    """Returns a command prefix that lets Linux send `number` when the starting thread ends.

    PR_SET_PDEATHSIG through util-linux: a preexec_fn would run Python between fork and exec, which
    is not safe once gRPC has started its threads. Elsewhere the next start cleans up by pid.
    """
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig", number.name.removeprefix("SIG"), "--"] if setpriv else []


def birth(pid: int) -> str | None:
    """Returns a token of when this process began, or None when there is none (or a zombie)."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # proc(5): field 3 is the state, field 22 the start in clock ticks since boot.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"
    answer = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, began = answer.stdout.strip().partition(" ")
    return None if not began or state.startswith("Z") else began.strip()


def end_stranger(
    pid: int, born: str, *, first: signal.Signals = signal.SIGTERM, grace_seconds: float = 10.0
) -> None:
    """Ends a process that an earlier run left behind; does nothing when it is another one."""
    if birth(pid) != born:
        return
    os.kill(pid, first)
    if not wait_until(lambda: birth(pid) != born, grace_seconds):
        # It led a session of its own, so its group is its descendants.
        os.killpg(pid, signal.SIGKILL)
        wait_until(lambda: birth(pid) != born, 5.0)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Polls until the condition holds; returns False when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
