"""The kill switch: rows that stop a scope, and a file that stops everything.

The file works while the database is away and for whoever can only reach the machine. It is asked
for each time: a `stat` costs microseconds, and nothing has to be told to read it again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from aegis_executor.catalogue.base import Gate
from aegis_executor.guards.gates import Asked, passes

_REASON_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Pause:
    """Somebody's stop; an empty namespace or action means every one."""

    pause_id: str
    namespace: str
    action: str
    who: str
    reason: str
    at: datetime
    expires_at: datetime | None = None

    def holds(self, asked: Asked, now: datetime) -> bool:
        """True when it stops what is asked."""
        if self.expires_at is not None and now >= self.expires_at:
            return False
        # A node carries pods of every namespace, so a pause of any of them holds for it too.
        here = self.namespace in ("", asked.place.namespace) or not asked.place.namespace
        return here and self.action in ("", asked.verb)

    @property
    def scope(self) -> str:
        """What it stops, for people."""
        parts = (
            f"namespace {self.namespace}" if self.namespace else "",
            f"action {self.action}" if self.action else "",
        )
        return " ".join(part for part in parts if part) or "everything"


class PauseFile:
    """A file whose existence pauses everything; its first line is the reason."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def reason(self) -> str:
        """Returns why everything is paused; empty when it is not.

        Whatever cannot be read is a pause: somebody put something there.
        """
        if self._path is None:
            return ""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            # Without its folder nobody could lay it there either.
            return "" if self._path.parent.is_dir() else f"{self._path.parent} is missing"
        except OSError as error:
            return f"{self._path} cannot be looked at: {error.strerror}"
        # A pipe would make us wait for its writer.
        if not stat.S_ISREG(found.st_mode):
            return f"{self._path} is there, and no plain file"
        return self._first_line()

    def _first_line(self) -> str:
        assert self._path is not None  # noqa: S101  # only asked for one that is there
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                line = file.readline(_REASON_CHARACTERS).decode("utf-8", "replace").strip()
        except OSError as error:
            return f"{self._path} cannot be read: {error.strerror}"
        return line or f"{self._path} is there"


def kill_switch(
    asked: Asked, pauses: Sequence[Pause], local_pause: str, now: datetime
) -> list[Gate]:
    """Both levels; nothing passes them, a broken glass neither."""
    local = passes("pause.local", "no local pause file")
    if local_pause:
        local = Gate(
            "pause.local",
            False,
            "EXECUTION_PAUSED",
            f"paused on the executor's machine: {local_pause}",
            metadata={"scope": "everything", "by": "local file"},
        )
    holding = next((pause for pause in pauses if pause.holds(asked, now)), None)
    if holding is None:
        return [local, passes("pause", f"none of {len(pauses)} pauses is about this")]
    return [
        local,
        Gate(
            "pause",
            False,
            "EXECUTION_PAUSED",
            f"{holding.scope} is paused by {holding.who}: {holding.reason}",
            holding.expires_at,
            {"scope": holding.scope, "by": holding.who},
        ),
    ]
