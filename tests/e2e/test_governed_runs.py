"""The command line, from a plan in a file to runs side by side."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.e2e.test_cli import answer, run


def test_run_is_created_started_paused_resumed_and_compared(home: Path, tmp_path: Path):
    """As a person would do it; the paused run ends as the one that was left alone."""
    options = (
        "--rounds",
        "24",
        "--local-steps",
        "8",
        "--per-round",
        "4",
        "--no-review",
        "--seed",
        "5",
    )
    file = tmp_path / "plan.yaml"
    file.write_text(run(home, "train", "plan", *options).stdout)
    created = answer(home, "train", "create", "--plan", str(file))
    assert created["state"] == "STATE_CREATED"
    assert len(created["participants"]) == 5
    run_id = created["run_id"]
    started = answer(home, "train", "start", run_id, "--no-watch")
    assert started["state"] == "STATE_STARTING"
    for _ in range(300):
        if answer(home, "train", "show", run_id)["rounds_completed"] >= 1:
            break
        time.sleep(0.1)
    assert answer(home, "train", "pause", run_id)["state"] == "STATE_PAUSING"
    for _ in range(300):
        if answer(home, "train", "show", run_id)["state"] == "STATE_PAUSED":
            break
        time.sleep(0.1)
    assert answer(home, "train", "resume", run_id)["state"] == "STATE_STARTING"
    watched = run(home, "train", "watch", run_id)
    assert watched.returncode == 0, watched.stderr
    assert "round  24" in watched.stdout
    shown = run(home, "train", "show", run_id, "--participants")
    assert "not drawn" in shown.stdout
    alone = run(home, "train", "start", "--plan", str(file), "--output", "json")
    assert alone.returncode == 0, alone.stderr
    final = json.loads(alone.stdout.splitlines()[-1])
    compared = answer(home, "train", "compare", run_id, final["run_id"])
    assert compared["differences"] == []
    assert len({each["model_sha256"] for each in compared["runs"]}) == 1
    assert "best accuracy" in run(home, "train", "compare", run_id, final["run_id"]).stdout
