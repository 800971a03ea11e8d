"""Whole runs in one process."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from aegis.errors import InvalidArgument
from aegis.plans import Attacker, default_plan
from aegis_learning.datasets import DRAWN_ROWS, load, partition
from aegis_participant.attacks import a_little_is_enough, inner_product
from aegis_server.training.simulation.runner import Standing, simulate


def _plan(**changes):
    plan = default_plan(seed=3, participants=changes.pop("participants", 6))
    plan.rounds = 2
    for name, value in changes.items():
        setattr(plan, name, value)
    return plan


def test_model_does_not_depend_on_how_many_sites_train_at_once():
    """Bit for bit, with as many workers as one likes; and every round is told once, in order."""
    told: list[Standing] = []
    one = simulate(_plan(), workers=1, told=told.append).to_json()
    four = simulate(_plan(), workers=4, told=lambda _: None).to_json()
    assert one["final"] == four["final"]
    assert [each.number for each in told] == [0, 1, 2]
    assert one["final"]["accuracy"] == told[-1].accuracy
    assert one["peak_rss_mib"] > 10
    other = simulate(_plan(seed=4), workers=4, told=lambda _: None).to_json()
    assert other["final"]["model_digest"] != one["final"]["model_digest"]


def test_more_sites_than_rows_draw_rows_that_others_have():
    """Only where a plan is a simulation; each site has rows of every class."""
    rows = load("breast-cancer").shared
    with pytest.raises(ValueError, match="too few rows"):
        partition(rows, 200, 1.0, 1)
    sites = partition(rows, 200, 1.0, 1, shared=True)
    assert {len(site) for site in sites} == {DRAWN_ROWS}
    assert all(np.bincount(site.y, minlength=2).min() >= 2 for site in sites)
    again = partition(rows, 200, 1.0, 1, shared=True)
    assert all((a.x == b.x).all() for a, b in zip(sites, again, strict=True))


@pytest.mark.parametrize("kind", ["alie", "ipm"])
def test_colluders_send_the_same_and_the_review_rejects_them(kind: str):
    """Copies of one update point the same way; that is what gives them away."""
    plan = _plan(participants=9)
    for number in (8, 9):
        plan.attacks.append(Attacker(kind).message(f"site-{number}"))
    last = simulate(plan, workers=2, told=lambda _: None).standings[-1]
    assert last.outcomes == {"aggregated": 7, "rejected": 2}


def test_collusions_are_what_the_papers_say():
    """ALIE stays within z deviations of the mean; IPM is the mean turned round."""
    honest = np.array([[1.0, 2.0], [3.0, 2.0]])
    assert a_little_is_enough(honest, 1.5).tolist() == [2 - 1.5, 2.0]
    assert inner_product(honest, 0.5).tolist() == [-1.0, -1.0]


def test_run_whose_updates_are_all_too_few_says_so():
    """A failed run keeps the model it had, and the reason."""
    plan = _plan(participants=3, min_participants=3)
    plan.attacks.append(Attacker("scale", 1000).message("site-3"))
    finished = simulate(plan, workers=2, told=lambda _: None)
    assert "round 1" in finished.failure
    assert "site-3" in finished.failure
    assert finished.standings[-1].number == 0


def _program(text: str) -> tuple[int, list[dict]]:
    command = [sys.executable, "-m", "aegis_server.training.simulation"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no plan", "standard input holds no plan"),
        ('{"dataset": "breast-cancer"}', "only a plan with simulation"),
    ],
    ids=["text", "private"],
)
def test_program_says_why_there_is_nothing_to_run(text: str, message: str):
    """One line of JSON, and status 2."""
    status, answers = _program(text)
    assert status == 2
    assert message in answers[-1]["error"]


@pytest.mark.parametrize(("field", "value"), [("model", "gpt"), ("dataset", "secret")])
def test_plan_that_cannot_be_kept_is_refused_by_its_field(field: str, value: str):
    """As StartRun refuses it."""
    with pytest.raises(InvalidArgument) as refused:
        simulate(_plan(**{field: value}), workers=1, told=lambda _: None)
    assert [each.field for each in refused.value.violations] == [f"plan.{field}"]


def test_command_writes_a_report_that_a_program_can_read(tmp_path):
    """What `--json` promises."""
    file = tmp_path / "report.json"
    command = ["aegis", "train", "simulate", "--sites", "4", "--rounds", "1", "--seed", "7"]
    program = [sys.executable, "-c", "from aegis.cli.main import main; main()", *command[1:]]
    done = subprocess.run(
        [*program, "--json", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert 0 <= report["final"]["accuracy"] <= 1
    assert len(report["final"]["model_digest"]) == 64
    assert report["peak_rss_mib"] > 0 < report["seconds"]
    assert report["final"]["model_digest"] in done.stdout.replace("\n", "")


def test_command_refuses_a_run_of_attackers_only():
    """Somebody has to be honest."""
    program = [sys.executable, "-c", "from aegis.cli.main import main; main()"]
    options = ["train", "simulate", "--sites", "3", "--attack", "ipm", "--attackers", "3"]
    done = subprocess.run([*program, *options], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "honest" in done.stderr
