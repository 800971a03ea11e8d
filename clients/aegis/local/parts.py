"""What a supervisor sees of a part, and what it reports of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from aegis.local.process import PartFailed


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
