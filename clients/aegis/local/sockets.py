"""Unix sockets of the embedded servers: short paths in private folders."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

# sockaddr_un holds 107 bytes on Linux and 103 on macOS; PostgreSQL refuses to start beyond that.
_PATH_BYTES_MAX = 103


def private_directory(path: Path) -> Path:
    """Makes a folder nobody else can enter."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


def socket_directory(preferred: Path, file_name: str, *, owner: int | None = None) -> Path:
    """Returns `preferred`, or a private temporary folder where that would not do.

    It does not when the socket's path would be too long, nor when another user, `owner`, must own
    the folder: `preferred` holds files of ours too.
    """
    if owner is None and len(os.fsencode(preferred / file_name)) <= _PATH_BYTES_MAX:
        return private_directory(preferred)
    folder = Path(tempfile.mkdtemp(prefix="aegis-"))
    if owner is not None:
        os.chown(folder, owner, -1)
    return folder


def discard(directory: Path, preferred: Path) -> None:
    """Removes a folder that `socket_directory` made elsewhere than preferred."""
    if directory != preferred and directory.name.startswith("aegis-"):
        shutil.rmtree(directory, ignore_errors=True)


def listening(path: Path) -> bool:
    """True when somebody accepts connections at this socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
