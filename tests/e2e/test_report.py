"""The compliance report of a control plane that is running."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.commands import command


def test_report_of_a_running_control_plane_has_its_budget_and_verifies(home: Path, tmp_path: Path):
    """A training run, its configuration and its participants, from both logs, with no copy made."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return command("--home", home, *arguments)

    trained = run("train", "start", "--rounds", "1", "--participants", "3", "--output", "json")
    assert trained.returncode == 0, trained.stderr
    today = datetime.now(UTC).date()
    period = ("--from", str(today - timedelta(days=1)), "--to", str(today + timedelta(days=2)))
    file = tmp_path / "report.json"
    done = run("audit", "report", *period, "--format", "json", "--out", str(file))
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["verification"]["own_keys"] is True
    assert {log["log_id"] for log in found["facts"]["logs"]} == {"aegis-server", "aegis-executor"}
    facts = found["facts"]
    ours = facts["runs"][-1]
    assert (ours["state"], ours["participants"], ours["rounds_completed"]) == ("completed", 3, 1)
    assert 0 < ours["epsilon"] <= ours["target_epsilon"]
    assert ours["noise_multiplier"] > 0
    budget = next(each for each in facts["datasets"] if each["dataset"] == ours["dataset"])
    assert (budget["limit"], budget["delta"]) == (20.0, 0.001)
    assert budget["spent"] is not None
    assert {"site-1", "site-2", "site-3"} <= {each["participant"] for each in facts["participants"]}
