"""The trust bundle in use: it follows its file, so that a revoked key stops to count."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from aegis.trust import TrustBundle, load_root, signature_of

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class TrustFiles:
    """The bundle; the root's public key, without which the file is believed as it lies there; and
    the folder of shared secrets, without which no key of that kind counts.
    """

    bundle: Path
    root: Path | None = None
    secrets: Path | None = None

    def load(self) -> TrustBundle:
        """Reads everything; raises OSError, or ValueError saying which file is wrong."""
        if self.secrets is not None and not self.secrets.is_dir():
            raise ValueError(f"there is no folder {self.secrets}")
        root = None if self.root is None else load_root(self.root)
        return TrustBundle.load(self.bundle, root=root, secrets=self.secrets)

    def versions(self) -> tuple[int, ...]:
        """Changes whenever one of the files does; those that are missing are zeros."""
        files = [self.bundle, signature_of(self.bundle), self.root, self.secrets]
        stats = [file.stat() if file is not None and file.exists() else None for file in files]
        return tuple(n for each in stats for n in ((each.st_mtime_ns, each.st_ino) if each else ()))


def folder_of(text: str | None) -> Path | None:
    """Returns the folder of shared secrets that a setting names, or None where it names none."""
    return Path(text) if text else None


class LiveTrust(TrustBundle):
    """A bundle that becomes what its file says, within two seconds, while `run` runs.

    An older one than it has seen is refused, and one that cannot be used leaves the last good one
    in place: whoever can write the file but not sign it brings no key back. Raises as
    `TrustFiles.load` at the start.
    """

    def __init__(self, files: TrustFiles) -> None:
        self._files = files
        self._seen = files.versions()
        self._complained = ""
        self._become(files.load())

    async def run(self) -> None:
        """Follows the file until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        try:
            seen = self._files.versions()
            if seen == self._seen and not self._complained:
                return
            self._seen, fresh = seen, self._files.load()
        except (OSError, ValueError) as error:
            self._keep(str(error))
            return
        if fresh.version < self.version:
            self._keep(f"version {fresh.version} in the file is older")
            return
        self._complained = ""
        self._become(fresh)
        log.info("trust bundle %d is in use, with %d keys", self.version, len(self.keys))

    def _keep(self, problem: str) -> None:
        if problem != self._complained:
            log.warning("keeping trust bundle %d: %s", self.version, problem)
        self._complained = problem

    def _become(self, other: TrustBundle) -> None:
        super().__init__(other.keys, other.version)
