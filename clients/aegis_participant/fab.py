"""Aegis' own application as Flower packs applications (a FAB), for sites that run Flower.

It holds no code of ours, only where to find it: what trains is what is installed at the site. So
its digest stays the same for years, and a site that lets it run lets in nothing new.
"""

from __future__ import annotations

import hashlib

from flwr.cli.build import build_fab_from_files

_PROJECT = b"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "aegis-site"
version = "1.0.0"
description = "The application of Aegis' sites, as it is installed"
license = "Apache-2.0"
dependencies = ["flwr>=1.41,<1.42"]

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "aegis"

[tool.flwr.app.components]
serverapp = "aegis_site.server:app"
clientapp = "aegis_site.client:app"

[tool.flwr.app.config]
"""

_CLIENT = b'from aegis_participant.app import app\n\n__all__ = ["app"]\n'

# Flower wants one; the coordinator takes its place.
_SERVER = b"""\
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    raise RuntimeError("runs of this application are driven by a coordinator")
"""


def own_application() -> bytes:
    """Returns the FAB."""
    files = {
        "pyproject.toml": _PROJECT,
        "aegis_site/__init__.py": b"",
        "aegis_site/client.py": _CLIENT,
        "aegis_site/server.py": _SERVER,
    }
    return bytes(build_fab_from_files(files)[0])


def own_digest() -> str:
    """Returns its SHA-256, in hexadecimal."""
    return hashlib.sha256(own_application()).hexdigest()
