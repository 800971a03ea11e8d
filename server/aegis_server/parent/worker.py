"""One worker, seen from both ends of the pipe that ties it to its parent.

The pipe is the worker's standard input, and nothing is ever written into it. When the parent dies,
however suddenly, the kernel closes the other end; the worker then drains and ends by itself.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)

# Longer than the port drains and deeds take; then something hangs.
DRAIN_SECONDS = 30.0


class Worker:
    """A running worker; it is ready once it has written its ready file.

    Spawned, never forked, and without a preexec_fn: nothing of ours runs between fork and exec.
    """

    def __init__(self, index: int, *, environment: Mapping[str, str], ready_file: Path) -> None:
        ready_file.unlink(missing_ok=True)
        self._ready_file = ready_file
        self._ready = False
        # -P: nothing that lies in the folder we were started from is imported instead.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "aegis_server", "--worker", str(index)],
            env={**environment, "AEGIS_READY_FILE": str(ready_file)},
            stdin=subprocess.PIPE,
        )
        self.began = time.monotonic()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """True once it serves."""
        self._ready = self._ready or self._ready_file.exists()
        return self._ready

    def exit_status(self) -> int | None:
        """Returns None while it runs, else its status, negative for a signal."""
        status = self._process.poll()
        if status is not None and self._process.stdin is not None:
            self._process.stdin.close()
        return status

    def stop(self) -> None:
        """Asks it to drain and end."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()


def end_with_parent() -> None:
    """Lets this process, a worker, drain and end when its parent is gone."""
    threading.Thread(target=_wait_for_the_end, name="parent", daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(sys.__stdin__.fileno() if sys.__stdin__ else 0, 1):
        pass
    log.warning("the parent is gone; stopping")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(DRAIN_SECONDS)
    log.critical("not drained after %g s; ending all the same", DRAIN_SECONDS)
    os._exit(1)
