"""The trust bundle in use: it follows its file, so that a revoked key stops to count."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from aegis.algorithms import key_id
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

    def root_id(self) -> str:
        """Returns what the root is called, as other keys are; empty where there is none."""
        return "" if self.root is None else key_id(load_root(self.root))

    def versions(self) -> tuple[int, ...]:
        """Changes whenever one of the files does; those that are missing are zeros."""
        files = [self.bundle, signature_of(self.bundle), self.root, self.secrets]
        stats = [file.stat() if file is not None and file.exists() else None for file in files]
        return tuple(n for each in stats for n in ((each.st_mtime_ns, each.st_ino) if each else ()))


def folder_of(text: str | None) -> Path | None:
    """Returns the folder of shared secrets that a setting names, or None where it names none."""
    return Path(text) if text else None


@dataclass(frozen=True, slots=True)
class Seen:
    """Which bundle was in use: what signed it, empty for nothing, and its version."""

    root: str
    version: int


class LiveTrust(TrustBundle):
    """A bundle that becomes what its file says, within two seconds, while `run` runs.

    An older one than it has seen is refused, and one that cannot be used leaves the last good one
    in place: whoever can write the file but not sign it brings no key back. Raises as
    `TrustFiles.load` at the start. What was seen before that, whoever starts the program has kept
    and tells `refuse_older`.
    """

    def __init__(self, files: TrustFiles) -> None:
        self._files = files
        self._seen = files.versions()
        self._complained = ""
        self._root = files.root_id()
        self._become(files.load())

    @property
    def seen(self) -> Seen:
        """The bundle that is in use now, to be kept over a restart."""
        return Seen(self._root, self.version)

    def refuse_older(self, kept: Seen | None) -> None:
        """Raises ValueError when this is an older bundle than was in use before the start.

        Only versions that one root has signed say which is older.
        """
        now = self.seen
        if kept is not None and now.root and now.root == kept.root and now.version < kept.version:
            raise ValueError(
                f"{self._files.bundle} is version {now.version}, and {kept.version} was in use"
                " already: put the newest one in place, or sign this as a later one"
            )

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
            self._seen, root, fresh = seen, self._files.root_id(), self._files.load()
        except (OSError, ValueError) as error:
            self._keep(str(error))
            return
        if fresh.version < self.version:
            self._keep(f"version {fresh.version} in the file is older")
            return
        self._complained, self._root = "", root
        self._become(fresh)
        log.info("trust bundle %d is in use, with %d keys", self.version, len(self.keys))

    def _keep(self, problem: str) -> None:
        if problem != self._complained:
            log.warning("keeping trust bundle %d: %s", self.version, problem)
        self._complained = problem

    def _become(self, other: TrustBundle) -> None:
        super().__init__(other.keys, other.version)
