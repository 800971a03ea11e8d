"""The application code a site runs, pinned by a digest of its files.

A task names its application and the digest it is for. What a site executes comes from its own disk
only; where the digests differ, the task is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from aegis_learning.pinning import app_digest, own_digest, package_folder

BUILT_IN = "aegis"
_BUILT_IN_MODULE = "aegis_participant.app:app"

Config: TypeAlias = Mapping[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class App:
    """A Flower ClientApp: `module` is "package.module:name", importable with `path` in front.

    `sha256` is its pin; `node_config` and `run_config` are what it finds in its Context beside what
    every application of a site finds there.
    """

    name: str
    module: str
    path: Path | None
    sha256: bytes
    node_config: Config = field(default_factory=dict)
    run_config: Config = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where its files are; raises ValueError when the package is not installed."""
        return self.path or package_folder(self.module)

    def digest(self) -> bytes:
        """Returns the digest of its files as they are now; raises OSError and ValueError."""
        if (self.module, self.path) == (_BUILT_IN_MODULE, None):
            return own_digest()
        return app_digest(self.folder)

    def unchanged(self) -> bool:
        """Says whether the files are still those of the pin."""
        try:
            return self.digest() == self.sha256
        except (OSError, ValueError):
            return False


def built_in() -> App:
    """Returns the application that comes with this program, pinned to its files as they are."""
    return App(BUILT_IN, _BUILT_IN_MODULE, None, own_digest())
