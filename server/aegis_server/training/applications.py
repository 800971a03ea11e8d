"""Flower applications of others on a Grid of ours: their ServerApp, unchanged, in this process.

A folder of the server holds them, one Flower project each. What runs is pinned by the digest that
the sites pin, too: the same files, the same digest.
"""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aegis.errors import FailedPrecondition, NotFound
from aegis_learning.pinning import app_digest
from aegis_server.training.flower import Context, Grid, RecordDict, ServerApp

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_SERVER_NODE = 0

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Application:
    """A Flower project: `reference` is its ServerApp as "module:name", `config` its settings."""

    name: str
    folder: Path
    reference: str
    config: Mapping[str, Value]

    @classmethod
    def find(cls, applications: Path, name: str, sha256: bytes) -> Application:
        """Returns the application of that name and digest.

        Raises `NotFound` (RESOURCE_NOT_FOUND) for a name that has none; `FailedPrecondition`
        (APP_MISMATCH) for other files than those of the digest, or no Flower project.
        """
        folder = applications / name
        if _NAME.fullmatch(name) is None or not (folder / "pyproject.toml").is_file():
            raise NotFound("RESOURCE_NOT_FOUND", f"no application is called {name[:64]!r} here")
        if app_digest(folder) != sha256:
            raise FailedPrecondition(
                "APP_MISMATCH", f"the files of {name} are not those of the digest", app=name
            )
        try:
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
            flower = project["tool"]["flwr"]["app"]
            reference = str(flower["components"]["serverapp"])
        except (KeyError, TypeError, ValueError):
            reference, flower = "", {}
        if _REFERENCE.fullmatch(reference) is None:
            raise FailedPrecondition("APP_MISMATCH", f"{name} has no ServerApp", app=name)
        return cls(name, folder, reference, dict(_flat(flower.get("config", {}))))

    def run(self, grid: Grid, config: Mapping[str, Value]) -> None:
        """Runs the ServerApp over a Grid to its end, with `config` over its own settings.

        One application a process: its modules stay imported. Raises what the application raises;
        ValueError for settings that it does not have.
        """
        unknown = sorted(config.keys() - self.config.keys())
        if unknown:
            raise ValueError(f"{self.name} has no setting {unknown[0]!r}")
        sys.path.insert(0, str(self.folder))
        module, _, name = self.reference.partition(":")
        app: ServerApp = getattr(importlib.import_module(module), name)
        context = Context(
            run_id=grid.run.run_id,
            node_id=_SERVER_NODE,
            node_config={},
            state=RecordDict(),
            run_config={**self.config, **config},
        )
        app(grid=grid, context=context)


def _flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Value]]:
    """Returns settings as Flower names them: tables in tables are joined by dots."""
    found: list[tuple[str, Value]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
