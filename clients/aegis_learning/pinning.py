"""Digests of application code: what a task is for, and what a site executes, is the same code."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

# What trains at a site by default: its ClientApp, and the arithmetic that it is made of.
_OWN_PACKAGES = ("aegis_learning", "aegis_participant")


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


def own_digest() -> bytes:
    """Returns the digest of the application that comes with Aegis, as it is installed here."""
    return hashlib.sha256(
        b"".join(app_digest(package_folder(package)) for package in _OWN_PACKAGES)
    ).digest()


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
