"""What a site says about itself to the people who run it: DIR/status.json, always whole."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aegis.durable import replace_text

log = logging.getLogger(__name__)

FILE = "status.json"


@dataclass(slots=True)
class State:
    """`state` is starting, connecting, attending, draining, stopped or ended."""

    state: str = "starting"
    detail: str = ""
    participant: str = ""
    server: str = ""
    pid: int = 0
    connected_since: str | None = None
    certificate_ends: str | None = None
    working_on: list[str] = field(default_factory=list)
    last_task: dict[str, Any] | None = None
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    updated: str = ""


class Status:
    """The state, and its file."""

    def __init__(self, folder: Path, *, clock: Callable[[], datetime]) -> None:
        self._file = folder / FILE
        self._clock = clock
        self._warned: dict[str, str] = {}
        self.state = State(pid=os.getpid())

    def set(self, **values: Any) -> None:
        """Changes some of it, and writes all of it; a full disk is no reason to stop."""
        for name, value in values.items():
            setattr(self.state, name, value)
        self.state.warnings = [*self._of_data(), *self._warned.values()]
        self.state.updated = self.now()
        try:
            replace_text(self._file, json.dumps(asdict(self.state), indent=2) + "\n")
        except OSError as error:
            log.warning("%s was not written: %s", self._file, error)

    def warn(self, about: str, problem: str | None) -> None:
        """Puts a warning there, or takes it away."""
        if problem is None:
            if self._warned.pop(about, None) is None:
                return
        else:
            self._warned[about] = problem
            log.warning("%s", problem)
        self.set()

    def now(self) -> str:
        """Returns the time as it is written there."""
        return self._clock().isoformat(timespec="seconds")

    def _of_data(self) -> list[str]:
        return [
            f"{name}: {each}" for name, data in self.state.data.items() for each in data["warnings"]
        ]


def read(folder: Path) -> dict[str, Any]:
    """Returns what was written last; raises FileNotFoundError before the first start.

    A program that was killed could not say so: without its process the state is "stopped".
    """
    state: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    if state["state"] not in ("stopped", "ended") and not _runs(state["pid"]):
        state |= {"state": "stopped", "detail": "the program is not running"}
    return state


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def render(state: dict[str, Any]) -> str:
    """Returns the state for people."""
    lines = [f"{state['participant']}: {state['state']}" + _after(" - ", state["detail"])]
    lines.append(f"  server       {state['server']}")
    lines.append(f"  since        {state['connected_since'] or 'not connected'}")
    lines.append(f"  certificate  ends {state['certificate_ends']}")
    if last := state["last_task"]:
        lines.append(f"  last task    run {last['run']} round {last['round']}: {last['outcome']}")
    for name, data in state["data"].items():
        spent = f"{data['epsilon']:.2f} of {data['epsilon_limit']:g} at delta {data['delta']:g}"
        lines.append(f"  {name}: {data['rows']} rows, epsilon {spent}")
    lines += [f"  warning: {each}" for each in state["warnings"]]
    # Some of it is the server's words, and this is somebody's terminal.
    return "".join("".join(c if c.isprintable() else "?" for c in x) + "\n" for x in lines)


def _after(before: str, text: str) -> str:
    return f"{before}{text}" if text else ""
