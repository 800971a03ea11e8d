"""An application of somebody else: found by its digest, and run on a Grid of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aegis.errors import FailedPrecondition, NotFound
from aegis_learning.pinning import app_digest
from aegis_server.training.applications import Application

APPS = Path(__file__).parents[2] / "apps"
QUICKSTART = APPS / "quickstart"

# A process of its own: an application's modules stay imported, and so does Flower's identity.
_PROGRAM = """
import importlib, sys
from dataclasses import replace
from pathlib import Path
from aegis_learning.pinning import app_digest
from aegis_server.training.applications import Application
from aegis_server.training.grid import LocalGrid

apps = Path(sys.argv[1])
application = Application.find(apps, "quickstart", app_digest(apps / "quickstart"))
sys.path.insert(0, str(application.folder))
client = importlib.import_module("quickstart.client_app").app

def site(message, context):
    context.run_config = dict(application.config)
    return client(message, context)

rows = [{"partition-id": n, "num-partitions": 3} for n in range(3)]
application.run(LocalGrid({n + 1: (site, rows[n]) for n in range(3)}), {"num-server-rounds": 2})
"""


def test_an_application_runs_unchanged_on_a_grid_of_ours() -> None:
    """Flower's FedAvg and its own loop, over sites in one process."""
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(APPS)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    printed = ran.stdout.rpartition("accuracy after 2 rounds: ")[2]
    assert float(printed) > 0.95


def test_settings_are_flowers_and_known() -> None:
    """Those of the project, and no others."""
    application = Application.find(APPS, "quickstart", app_digest(QUICKSTART))
    assert application.config["num-server-rounds"] == 3
    with pytest.raises(ValueError, match="no setting 'rounds'"):
        application.run(None, {"rounds": 1})  # type: ignore[arg-type]


def test_a_changed_file_is_another_application(tmp_path: Path) -> None:
    """Whatever it is called."""
    shutil.copytree(QUICKSTART, tmp_path / "quickstart")
    digest = app_digest(tmp_path / "quickstart")
    assert digest == app_digest(QUICKSTART)
    with (tmp_path / "quickstart" / "quickstart" / "task.py").open("a") as file:
        file.write("\n")
    with pytest.raises(FailedPrecondition) as refused:
        Application.find(tmp_path, "quickstart", digest)
    assert refused.value.reason == "APP_MISMATCH"


@pytest.mark.parametrize("name", ["missing", "../quickstart", "quickstart/.", ""])
def test_a_name_without_an_application_is_not_found(name: str) -> None:
    """Nor is one that leads out of the folder."""
    with pytest.raises(NotFound):
        Application.find(APPS, name, b"")


def test_a_project_without_a_serverapp_is_refused(tmp_path: Path) -> None:
    """What is no Flower application is not run."""
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("[project]\nname = 'plain'\n")
    (folder / "code.py").write_text("")
    with pytest.raises(FailedPrecondition, match="no ServerApp"):
        Application.find(tmp_path, "plain", app_digest(folder))
