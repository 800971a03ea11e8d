"""`aegis attack run` and `aegis attack list`."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from aegis.cli.attack.pictures import chart
from aegis.cli.attack.tables import HEADINGS, rows
from aegis.cli.execution.drawing import png, svg
from aegis_server.review.lab.attacks import BY_NAME

_AEGIS = [sys.executable, "-c", "from aegis.cli.main import main; main()", "attack"]


def _aegis(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_AEGIS, *arguments], capture_output=True, text=True, check=False)


def test_list_names_every_attack():
    """With its numbers, for programs too."""
    done = _aegis("list", "--output", "json")
    assert done.returncode == 0, done.stderr
    listed = {each["name"]: each for each in json.loads(done.stdout)}
    assert listed.keys() == BY_NAME.keys()
    assert listed["sign-flip-4"]["numbers"] == {"factor": 4.0}
    assert all(each["does"] for each in listed.values())


def test_run_writes_figures_and_a_page_that_loads_nothing(tmp_path):
    """`detection.{attack}.tpr` and `accuracy.{attack}.on`, where programs look for them."""
    figures, page = tmp_path / "attack.json", tmp_path / "attack.html"
    options = ["--data", "breast-cancer", "--attacks", "sign-flip-4", "--attacks", "backdoor"]
    files = ["--json", str(figures), "--html", str(page)]
    done = _aegis("run", "--quick", "--rounds", "4", "--processes", "1", *options, *files)
    assert done.returncode == 0, done.stderr
    report = json.loads(figures.read_text())
    assert 0 <= report["detection"]["sign-flip-4"]["fpr"] <= 1
    assert {"tpr", "tpr_at_5_fpr"} <= report["detection"]["backdoor"].keys()
    assert {"off", "on", "none"} <= report["accuracy"]["backdoor"].keys()
    assert "sign-flip-4" in done.stdout
    text = page.read_text()
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_plan_may_be_the_one_tuned_to_an_epsilon(tmp_path):
    """The report says so; one that nobody knows is refused."""
    figures = tmp_path / "attack.json"
    options = ["--data", "breast-cancer", "--attacks", "scaling", "--dp", "8", "--rounds", "2"]
    files = ["--json", str(figures), "--plan", "tuned"]
    done = _aegis("run", "--quick", "--processes", "1", *options, *files)
    assert done.returncode == 0, done.stderr
    assert json.loads(figures.read_text())["settings"]["plan"] == "tuned"
    assert _aegis("run", "--quick", "--plan", "voodoo").returncode == 2


def test_unknown_attack_is_named(tmp_path):
    """And nothing is run."""
    done = _aegis("run", "--attacks", "voodoo")
    assert done.returncode != 0
    assert "voodoo" in done.stderr


def test_report_that_cannot_be_written_says_so(tmp_path):
    """Before anything is run, not minutes later."""
    options = ["--data", "breast-cancer", "--attacks", "scaling", "--rounds", "2"]
    done = _aegis("run", "--quick", "--processes", "1", *options, "--json", "/nowhere/a.json")
    assert done.returncode != 0
    assert "cannot be written" in done.stderr
    assert "scaling" not in done.stderr


def _report(*attacks: str) -> dict:
    found = {"tpr": 0.5, "fpr": 0.1, "tpr_at_5_fpr": 0.4, "auc": 0.8, "roc": [[0, 0], [1, 1]]}
    shares = {"off": 0.1, "on": 0.9, "robust": 0.95, "none": 1.0}
    return {
        "settings": {"sites": 20, "rounds": 20, "seeds": 1, "malicious": 0.3},
        "machine": {"seconds": 3.0, "cores": 2, "load": [0.5, 1.0]},
        "detection": {
            "none": {"tpr": None, "fpr": 0.01},
            **dict.fromkeys(attacks, found),
        },
        "accuracy": dict.fromkeys(("none", *attacks), shares),
        "backdoor": dict.fromkeys(("none", *attacks), shares),
        "worlds": {"digits, IID, no DP": {}},
        "cost": {
            "round_ms_p50": 3.0,
            "round_ms_p99": 5.0,
            "update_ms_mean": 0.2,
            "rounds": 20,
        },
    }


@pytest.mark.parametrize("count", [0, 1, 14])
def test_every_attack_is_drawn_within_the_picture(count: int):
    """Bars, curves and words; as SVG and as PNG."""
    report = _report(*list(BY_NAME)[:count])
    drawing = chart(report)
    for box in drawing.boxes:
        assert -4 <= box.x <= box.x + box.width <= drawing.width
        assert 0 <= box.y <= box.y + box.height <= drawing.height
    for line in drawing.lines:
        assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in line.points)
    assert len(drawing.lines) == count
    ET.fromstring(svg(drawing))
    assert png(drawing).startswith(b"\x89PNG")
    assert all(len(row) == len(HEADINGS) for row in rows(report))
