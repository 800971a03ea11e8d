"""Who is enrolled, told by the server to the SuperLink beside it through a file.

The SuperLink has no database and no certificate of its own: it cannot ask, and has nothing to lose.
The server renews the file every second; one that is older than half a minute vouches for nobody.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from aegis.errors import Unavailable
from aegis.spiffe import Caller

log = logging.getLogger(__name__)

_TELL_SECONDS = 1.0
_STALE_SECONDS = 30.0


class Members:
    """What the file says, read again when it changes."""

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._read_at: tuple[int, int] | None = None
        self._names: Mapping[str, str] = {}

    def refusal(self, caller: Caller) -> str | None:
        """Returns why a participant's certificate does not count, or None."""
        try:
            found = self._file.stat()
            if (found.st_mtime_ns, found.st_ino) != self._read_at:
                self._names = json.loads(self._file.read_bytes())
                self._read_at = found.st_mtime_ns, found.st_ino
        except (OSError, ValueError):
            return "who is enrolled cannot be read"
        if self._clock() - found.st_mtime > _STALE_SECONDS:
            return "who is enrolled has not been told for too long"
        if self._names.get(caller.credential) != caller.subject.partition(":")[2]:
            return "the certificate is not that of an enrolled participant"
        return None


async def tell(file: Path, enrolled: Callable[[], Mapping[str, str]]) -> None:
    """Keeps the file as `enrolled` says (names by `certificate_id`), until cancelled.

    While `enrolled` raises `Unavailable` the file gets old.
    """
    while True:
        try:
            _tell_once(file, enrolled())
        except Unavailable as error:
            log.warning("who is enrolled cannot be told: %s", error.message)
        except OSError as error:
            log.warning("who is enrolled cannot be written: %s", error.strerror)
        await asyncio.sleep(_TELL_SECONDS)


def _tell_once(file: Path, names: Mapping[str, str]) -> None:
    content = json.dumps(dict(names), sort_keys=True).encode()
    if file.exists() and file.read_bytes() == content:
        os.utime(file)
        return
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(file)
