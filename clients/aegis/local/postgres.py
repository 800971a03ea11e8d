"""A real PostgreSQL for one home, under our own supervision.

Connections need a password and a socket in a private folder; there is no TCP port. The server runs
in its own session and may outlive us: the next start adopts it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from aegis.local.cluster import (
    DATABASE,
    EXECUTOR,
    OWNER,
    SERVER,
    Cluster,
    environment,
    find_binaries,
)
from aegis.local.parts import ProgramPart
from aegis.local.process import Program, birth, end_stranger, wait_until
from aegis.local.sockets import discard, listening, socket_directory
from aegis.local.unprivileged import Unprivileged

__all__ = ["DATABASE", "EXECUTOR", "OWNER", "SERVER", "Postgres"]

_SOCKET = ".s.PGSQL.5432"
READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """A server as its postmaster.pid describes it."""

    pid: int
    born: str
    sockets: Path
    ready: bool

    @classmethod
    def of(cls, data: Path) -> _Postmaster | None:
        """Returns the live server of a data directory, or None."""
        try:
            lines = (data / "postmaster.pid").read_text().splitlines()
            pid, sockets = int(lines[0]), Path(lines[4])
        except (FileNotFoundError, IndexError, ValueError):
            return None
        born = birth(pid)
        if born is None:
            return None
        return cls(pid, born, sockets, ready=len(lines) > 7 and lines[7].strip() == "ready")


class Postgres(ProgramPart):
    """The PostgreSQL of one home: `folder` holds its data and passwords, `run` its socket.

    `prepare`, then `start`, then `wait_until_ready`; `stop` is right at any time. As a context
    manager it does all of them. With `outlives_us` off, Linux shuts the server down when we die.
    """

    name = "postgres"

    def __init__(
        self,
        folder: Path,
        *,
        run: Path,
        log: Path,
        binaries: Path | None = None,
        settings: Mapping[str, str] | None = None,
        outlives_us: bool = True,
    ) -> None:
        self.log = log
        self._run = run
        self._binaries = binaries or find_binaries()
        self._cluster = Cluster(folder, self._binaries)
        self._settings = dict(settings or {})
        self._dies_with_us = None if outlives_us else signal.SIGINT
        self._adopted: _Postmaster | None = None
        self._sockets: Path | None = None

    def __enter__(self) -> Postgres:
        """Prepares, starts and waits."""
        try:
            self.prepare()
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
    def pid(self) -> int | None:
        """The postmaster's process id, or None when there is none of ours."""
        return self._adopted.pid if self._adopted is not None else super().pid

    @property
    def adopted(self) -> bool:
        """True when an earlier supervisor of this home had started it."""
        return self._adopted is not None

    @property
    def address(self) -> str:
        """Path of its socket, empty before `start`."""
        return str(self._sockets / _SOCKET) if self._sockets is not None else ""

    def url(self, role: str = OWNER, database: str = DATABASE) -> str:
        """Returns the connection URL of a role, its password included."""
        if self._sockets is None:
            raise RuntimeError("PostgreSQL was not started")
        folder = quote(str(self._sockets), safe="")
        return f"postgresql://{role}:{self._cluster.password(role)}@/{database}?host={folder}"

    def prepare(self) -> None:
        """Makes the cluster when there is none, as `Cluster.ensure` says."""
        self._cluster.ensure()

    def start(self) -> None:
        """Starts the server, or adopts the one an earlier supervisor of this home left behind."""
        self._program = None
        self._adopted = self._left_behind()
        if self._adopted is not None:
            self._sockets = self._adopted.sockets
            return
        unprivileged = Unprivileged.here(self._cluster.folder, self._binaries)
        if self._sockets is None:
            self._sockets = socket_directory(self._run, _SOCKET, owner=unprivileged.owner)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{self._sockets}"',
            "unix_socket_permissions": "0700",
            **self._settings,
        }
        self._program = Program(
            self.name,
            [
                *unprivileged.prefix,
                *(str(self._binaries / "postgres"), "-D", str(self._cluster.data), "-p", "5432"),
                *(word for key, value in settings.items() for word in ("-c", f"{key}={value}")),
            ],
            environment=environment(),
            log=self.log,
            dies_with_us=self._dies_with_us,
        )

    def is_ready(self) -> bool:
        """True once it accepts connections (postmaster.pid says so; `pg_ctl` looks there too)."""
        running = _Postmaster.of(self._cluster.data)
        return running is not None and running.pid == self.pid and running.ready

    async def ready(self) -> bool:
        """True once it accepts connections."""
        return self.is_ready()

    def start_again(self) -> bool:
        """Starts once more if the last start failed for a reason that passes; else returns False.

        After a kill -9 of the postmaster its children need a moment to notice and go.
        """
        passing = any("shared memory block" in line for line in self.failed().log_tail)
        if passing:
            self.start()
        return passing

    def wait_until_ready(self) -> None:
        """Blocks until it is ready; raises `PartFailed` when it ends or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while not wait_until(self.is_ready, 0.2):
            if self.exit_status() is not None and not self.start_again():
                raise self.failed()
            if time.monotonic() > deadline:
                raise self.failed(f"was not ready after {READY_SECONDS:.0f} s")

    def _left_behind(self) -> _Postmaster | None:
        # A listener at a socket in a folder of ours is the proof; the file alone may be stale.
        running = _Postmaster.of(self._cluster.data)
        if running is not None and listening(running.sockets / _SOCKET):
            return running
        return None

    def exit_status(self) -> int | None:
        """Returns None while it runs; an adopted server that is gone answers 0."""
        if self._adopted is None:
            return super().exit_status()
        return None if birth(self._adopted.pid) == self._adopted.born else 0

    def stop(self, *, grace_seconds: float = 15.0) -> None:
        """Shuts it down: open transactions roll back, committed ones stay."""
        if self._program is not None:
            self._program.stop(first=signal.SIGINT, grace_seconds=grace_seconds)
        elif self._adopted is not None:
            end_stranger(
                self._adopted.pid,
                self._adopted.born,
                first=signal.SIGINT,
                grace_seconds=grace_seconds,
            )
        self._program = self._adopted = None
        if self._sockets is not None:
            discard(self._sockets, self._run)
            self._sockets = None

    def kill(self) -> None:
        """Ends the postmaster at once, as a power cut would."""
        if (adopted := self._adopted) is None:
            super().kill()
        elif birth(adopted.pid) == adopted.born:
            os.kill(adopted.pid, signal.SIGKILL)
