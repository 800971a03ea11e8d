"""What the witness remembers of the trust bundle over a restart: one line in its folder.

Without a log of its own it could else be started with an older bundle, in which a revoked key
counts.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from aegis.durable import replace_text
from aegis.serving.trusting import LiveTrust, Seen

log = logging.getLogger(__name__)

_FILE = "trust-in-use"
_LOOK_SECONDS = 1.0


def kept_in(folder: Path) -> Seen | None:
    """Returns the bundle that was in use last; ValueError for a file that says nothing."""
    file = folder / _FILE
    try:
        version, _, root = file.read_text(encoding="ascii").strip().partition(" ")
        return Seen(root, int(version))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{file} does not say which trust bundle was in use") from error


async def keep(trust: LiveTrust, folder: Path) -> None:
    """Writes down the bundle in use whenever it is another one, until cancelled."""
    written: Seen | None = None
    while True:
        if (seen := trust.seen) != written:
            try:
                replace_text(folder / _FILE, f"{seen.version} {seen.root}\n")
                written = seen
            except OSError as error:
                log.warning("trust bundle %d was not written down: %s", seen.version, error)
        await asyncio.sleep(_LOOK_SECONDS)
