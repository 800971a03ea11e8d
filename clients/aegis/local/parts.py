"""What a supervisor sees of a part, and what it reports of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from aegis.local.process import PartFailed, Program


class AlreadyRunning(RuntimeError):
    """Another supervisor holds this home; `pid` is its process."""

    def __init__(self, home: Path, pid: int | None) -> None:
        super().__init__(f"Aegis already runs in {home}" + (f" (process {pid})" if pid else ""))
        self.pid = pid


class Step(StrEnum):
    """What happens to a part."""

    starting = "starting"
    ready = "ready"
    missing = "missing"
    failed = "failed"
    stopping = "stopping"
    stopped = "stopped"


@dataclass(frozen=True, slots=True)
class Progress:
    """One line to show: a part, what happens to it, and a few words more."""

    part: str
    step: Step
    detail: str = ""


OnProgress = Callable[[Progress], None]


class Part(Protocol):
    """What `Postgres`, `Valkey` and `Service` have in common."""

    name: str
    log: Path

    @property
    def pid(self) -> int | None:
        """The process id, or None when it is not running."""

    @property
    def address(self) -> str:
        """host:port or the path of a socket, empty until it is known."""

    @property
    def token_address(self) -> str:
        """host:port for callers without a certificate, or empty."""

    def start(self) -> None:
        """Starts it, without waiting."""

    def start_again(self) -> bool:
        """Starts it once more when its last failure may pass by itself; else returns False."""

    async def ready(self) -> bool:
        """True once it can be used."""

    def exit_status(self) -> int | None:
        """None while it runs."""

    def failed(self, problem: str | None = None) -> PartFailed:
        """Returns the exception that tells how it ended."""

    def stop(self) -> None:
        """Blocks until it is gone."""

    def kill(self) -> None:
        """Ends it at once, as a power cut would."""


class ProgramPart:
    """A part that is one `Program`, which its `start` keeps in `_program`."""

    name: str
    token_address: str = ""
    _program: Program | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None when it is not running."""
        return self._program.pid if self._program is not None else None

    def start_again(self) -> bool:
        """Returns False: its failures do not pass by themselves."""
        return False

    def exit_status(self) -> int | None:
        """Returns None while it runs."""
        return self._program.exit_status() if self._program is not None else 0

    def failed(self, problem: str | None = None) -> PartFailed:
        """Returns the exception that tells how it ended, with its last log lines."""
        if self._program is not None:
            return self._program.failed(problem)
        return PartFailed(self.name, problem or "ended")

    def stop(self, *, grace_seconds: float = 15.0) -> None:
        """Lets it drain, and ends it when it does not."""
        if self._program is not None:
            self._program.stop(grace_seconds=grace_seconds)
            self._program = None

    def kill(self) -> None:
        """Ends it and its descendants at once, as a power cut would."""
        if (program := self._program) is not None:
            program.kill()
