"""`aegis demo` tells its story, measures it, and leaves nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.commands import aegis
from tests.e2e.conftest import left_behind


@pytest.mark.slow
def test_demo_shows_everything_and_writes_what_it_measured(tmp_path: Path):
    """All that had to happen did, every promised key is there, and no process is left."""
    file = tmp_path / "demo.json"
    done = subprocess.run(
        aegis("demo", "--seed", "3", "--attack", "label-flip", "--json", str(file)),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={
            "TMPDIR": str(tmp_path),
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            # A database of the user's, which the demo must leave alone.
            "AEGIS_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(file.read_text())
    accuracy = results["accuracy"]
    assert accuracy["attacked_review_off"] < accuracy["attacked_review_on"]
    assert set(accuracy) == {"honest", "attacked_review_off", "attacked_review_on"}
    assert 0 < results["epsilon"] <= 8
    assert results["updates"]["accepted"] > results["updates"]["rejected"] > 0
    assert results["actions"] == {
        "verified": 1,
        "replay_refused": 1,
        "tampered_refused": 1,
        "denied": 1,
        "held": 1,
        "approved": 1,
        "compensated": 1,
        "paused": 1,
    }
    assert (results["audit"]["intact"], results["audit"]["tampered_record_found"]) == (True, True)
    assert results["audit"]["truncation_found"] is True
    assert 0 < results["seconds"] < 240
    assert left_behind(str(tmp_path)) == []
