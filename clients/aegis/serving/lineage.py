"""Processes that do not outlive the one that started them.

Flower's programs start others (a SuperExec, a process for every message) and leave them behind when
they are killed. A group of their own makes it possible to end all of them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.1


def die_with_parent(parent: int | None) -> None:
    """Asks Linux to kill this process when the one that started it ends.

    `parent` is that process' id: when it is already another, it has ended before we could ask, and
    SystemExit is raised.
    """
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the process that started this one has ended")


def run_group(
    command: Sequence[str], *, environment: Mapping[str, str], grace_seconds: float = 10.0
) -> int:
    """Runs a command as the first of a process group, and ends all of the group with it.

    SIGTERM and SIGINT are passed on to all of them; who is still there after `grace_seconds` is
    killed. Returns the exit status of the command. For a program's main thread.
    """
    told: list[float] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        told.append(time.monotonic())
        _signal(leader.pid, signal.SIGTERM)

    leader = subprocess.Popen(command, env=environment, start_new_session=True)
    before = {each: signal.signal(each, pass_on) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        while (status := leader.poll()) is None:
            if told and time.monotonic() - told[0] > grace_seconds:
                _signal(leader.pid, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        return status
    finally:
        _signal(leader.pid, signal.SIGKILL)
        leader.wait()
        for each, handler in before.items():
            signal.signal(each, handler)


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # all of them have ended
