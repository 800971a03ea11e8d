"""How to run PostgreSQL, which refuses to run as root."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

_NOBODY = 65534


class CannotRun(RuntimeError):
    """This machine cannot run the server here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Unprivileged:
    """A prefix for commands, and who then owns their files (None: whoever we are)."""

    prefix: tuple[str, ...] = ()
    owner: int | None = None

    @classmethod
    def here(cls, folder: Path, binaries: Path) -> Unprivileged:
        """Returns the way that works for data in `folder`; raises `CannotRun` when none does.

        Root maps itself to `nobody` in a user namespace: PostgreSQL sees an ordinary user, the
        files stay root's, and no folder needs opening. Containers may forbid that; then the real
        `nobody` has to do, who must be able to reach the binaries and the folder.
        """
        if os.geteuid() != 0:
            return cls()
        namespace = ("unshare", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--")
        if _succeeds(*namespace, "true"):
            return cls(namespace)
        nobody = pwd.getpwnam("nobody")
        ids = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
        become = ("setpriv", *ids, "--")
        for needed, probe in (
            (folder.parent, ("test", "-x", str(folder.parent))),
            (binaries, (str(binaries / "initdb"), "--version")),
        ):
            if not _succeeds(*become, *probe):
                raise CannotRun(
                    "PostgreSQL does not run as root, this system allows no user namespaces, and"
                    f" `nobody` cannot enter {needed}: run as an ordinary user, or set"
                    " AEGIS_DATABASE_URL"
                )
        return cls(become, nobody.pw_uid)

    def give(self, path: Path) -> None:
        """Hands a file or folder to whom the commands will run as."""
        if self.owner is not None:
            os.chown(path, self.owner, -1)


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
