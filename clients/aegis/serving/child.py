"""A process that a serving program starts.

Not through the event loop: uvloop forks, and at a fork gRPC's handlers stop its threads in the
middle of other people's calls, which then fail or break their TLS. `Popen` without a preexec_fn
is a vfork, of which nobody hears.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_POLL_SECONDS = 0.1


class Child:
    """A running process whose output goes to the end of a log file."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        log_file: Path,
    ) -> None:
        """Starts it in `folder`; raises OSError."""
        with log_file.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    async def ended(self) -> int:
        """Waits for its end and returns its exit status."""
        while (status := self._process.poll()) is None:  # noqa: ASYNC110  # it wakes nobody
            await asyncio.sleep(_POLL_SECONDS)
        return status

    async def end(self, *, grace_seconds: float) -> None:
        """Ends it, by force when it takes longer than that."""
        self._process.terminate()
        try:
            async with asyncio.timeout(grace_seconds):
                await self.ended()
        except TimeoutError:
            self._process.kill()
            await self.ended()
