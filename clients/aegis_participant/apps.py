"""The application code a site runs, pinned by a digest of its files.

A task names its application and the digest it is for. What a site executes comes from its own disk
only; where the digests differ, the task is refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

BUILT_IN = "aegis"
_BUILT_IN_MODULE = "aegis_participant.app:app"

Config: TypeAlias = Mapping[str, bool | int | float | str]


def app_digest(path: Path) -> bytes:
    """Returns the SHA-256 over the .py files under a folder, or of the one file `path` is.

    Names count as well as contents, relative to the folder and in their order, so that the same
    code has the same digest wherever it is installed. Raises OSError; ValueError without any file.
    """
    files = {path.name: path}
    if not path.is_file():
        files = {each.relative_to(path).as_posix(): each for each in path.rglob("*.py")}
    if not files:
        raise ValueError(f"{path} holds no .py file")
    digest = hashlib.sha256()
    for name in sorted(files):
        for part in (name.encode(), files[name].read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


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

    def unchanged(self) -> bool:
        """Says whether the files are still those of the pin."""
        try:
            return app_digest(self.folder) == self.sha256
        except (OSError, ValueError):
            return False


def built_in() -> App:
    """Returns the application that comes with this program, pinned to its files as they are."""
    return App(BUILT_IN, _BUILT_IN_MODULE, None, app_digest(Path(__file__).parent))


def package_folder(module: str) -> Path:
    """Returns the folder (or file) of the top-level package of "package.module:name".

    Raises ValueError when there is none.
    """
    package = module.partition(":")[0].partition(".")[0]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ValueError(f"{package} is not installed")
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin
