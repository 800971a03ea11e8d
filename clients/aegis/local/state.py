"""run/state.json: which process is which part of a home, and where each listens."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from aegis.local.process import birth


@dataclass(frozen=True, slots=True)
class PartState:
    """One part as it was started; `pid` and `born` are None for a server that is not ours.

    `address` is host:port or the path of a socket; it never holds a password. `token_address` is
    where a server takes callers without a certificate.
    """

    name: str
    address: str
    token_address: str = ""
    log: str = ""
    pid: int | None = None
    born: str | None = None

    def runs(self) -> bool:
        """True while the very process that was started is there, not one with its old number."""
        return self.pid is not None and self.born is not None and birth(self.pid) == self.born


@dataclass(frozen=True, slots=True)
class State:
    """Everything one supervisor started, in the order it did."""

    pid: int
    parts: tuple[PartState, ...] = ()


def read(home: Path) -> State | None:
    """Returns what was written last, or None when nothing runs or the file makes no sense."""
    try:
        document = json.loads(_file(home).read_text())
        parts = tuple(PartState(**part) for part in document["parts"])
        return State(pid=int(document["pid"]), parts=parts)
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def write(home: Path, state: State) -> None:
    """Replaces the file as a whole, so that a reader never sees half of it."""
    fresh = _file(home).with_suffix(".new")
    fresh.write_text(json.dumps(asdict(state), indent=2) + "\n")
    fresh.rename(_file(home))


def remove(home: Path) -> None:
    """Says that nothing runs."""
    _file(home).unlink(missing_ok=True)


def server_address(home: Path) -> str | None:
    """Returns host:port of the running control plane, or None."""
    server = _server(home)
    return server.address if server is not None else None


def token_address(home: Path) -> str | None:
    """Returns host:port where it takes callers without a certificate, or None."""
    server = _server(home)
    return server.token_address or None if server is not None else None


def _server(home: Path) -> PartState | None:
    state = read(home)
    for part in state.parts if state is not None else ():
        if part.name == "server" and part.address and part.runs():
            return part
    return None


def _file(home: Path) -> Path:
    return home / "run" / "state.json"
