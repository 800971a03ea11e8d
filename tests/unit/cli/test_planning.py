"""Plans from options and files, as `aegis train plan` prints them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from google.protobuf.json_format import ParseDict
from tests.commands import invoke

from aegis.cli.planfiles import read_plan, written
from aegis.plans import default_plan
from aegis.v1 import training_pb2


def _run(*arguments: str) -> Result:
    return invoke(["train", *arguments])


def _plan(*arguments: str) -> training_pb2.RunPlan:
    done = _run("plan", "--output", "json", *arguments)
    assert done.exit_code == 0, done.output
    return ParseDict(json.loads(done.stdout), training_pb2.RunPlan())


def test_plan_without_options_is_the_default_one() -> None:
    """To the byte, so that a repeated request is the same request."""
    assert _plan().SerializeToString() == default_plan().SerializeToString()


def test_printed_plan_is_read_back_as_it_was(tmp_path: Path) -> None:
    """As YAML and as JSON, with what is not in the default plan."""
    plan = default_plan(seed=2**62)
    plan.grace.FromMilliseconds(1500)
    plan.early_stop.patience = 3
    plan.names.append("north")
    plan.app.name, plan.app.sha256 = "theirs", b"\xff" * 32
    file = tmp_path / "plan.yaml"
    file.write_text(written(plan))
    assert read_plan(file) == plan
    printed = _run("plan", "--plan", str(file))
    assert printed.stdout == file.read_text()
    json_file = tmp_path / "plan.json"
    json_file.write_text(_run("plan", "--plan", str(file), "-o", "json").stdout)
    assert read_plan(json_file) == plan


def test_every_option_says_its_field() -> None:
    """Also those that are zero: they are said, not left out."""
    plan = _plan(
        *("--sites", "enrolled", "--name", "north", "--name", "south", "--participants", "2"),
        *("--per-round", "2", "--rounds-each", "9", "--app", f"theirs:{'ab' * 32}"),
        *("--rounds", "9", "--min-participants", "2", "--deadline", "2m", "--grace", "5s"),
        *("--review-hold", "1h"),
        *("--retries", "2", "--quarantine-after", "3", "--quarantine-rounds", "4"),
        *("--early-stop", "5", "--min-gain", "0.01", "--dataset", "mine", "--model", "logistic"),
        *("--local-steps", "7", "--learning-rate", "0.5", "--epsilon", "2", "--delta", "1e-5"),
        *("--privacy-unit", "participant", "--update-clip-norm", "3"),
        *("--strategy", "multi-krum", "--malicious", "0", "--selected", "2", "--no-review"),
    )
    assert (plan.sites, plan.simulation) == (training_pb2.SITES_ENROLLED, False)
    assert list(plan.names) == ["north", "south"]
    assert (plan.app.name, plan.app.sha256) == ("theirs", b"\xab" * 32)
    assert (plan.per_round, plan.rounds_each, plan.rounds, plan.min_participants) == (2, 9, 9, 2)
    assert (plan.round_deadline.seconds, plan.grace.seconds) == (120, 5)
    assert plan.review_hold.seconds == 3600
    assert (plan.retries, plan.quarantine_after, plan.quarantine_rounds) == (2, 3, 4)
    assert (plan.early_stop.patience, plan.early_stop.min_gain) == (5, 0.01)
    assert (plan.dataset, plan.model, plan.local_steps) == ("mine", "logistic", 7)
    assert (plan.learning_rate, plan.target_epsilon, plan.delta) == (0.5, 2, 1e-5)
    assert plan.privacy_unit == training_pb2.PRIVACY_UNIT_PARTICIPANT
    assert plan.update_clip_norm == 3
    assert plan.strategy == training_pb2.STRATEGY_MULTI_KRUM
    assert (plan.settings.malicious, plan.settings.selected, plan.review) == (0, 2, False)


def test_options_go_before_the_file(tmp_path: Path) -> None:
    """What is not said stays as the file has it."""
    file = tmp_path / "plan.yaml"
    file.write_text(written(default_plan(seed=4)))
    plan = _plan("--plan", str(file), "--rounds", "3", "--strategy", "krum", "--malicious", "1")
    assert (plan.rounds, plan.seed, plan.settings.malicious) == (3, 4, 1)
    assert plan.strategy == training_pb2.STRATEGY_KRUM


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sites", "everywhere"), "embedded, enrolled, flower"),
        (("--privacy-unit", "nobody"), "record, participant"),
        (("--grace", "soon"), "--grace"),
        (("--review-hold", "soon"), "--review-hold"),
        (("--min-gain", "0.1"), "--early-stop"),
        (("--app", "theirs"), "NAME:SHA256"),
        (("--app", "theirs:abc"), "NAME:SHA256"),
        (("--strategy", "fed-magic"), "fed-avg"),
        (("--attack", "bribery"), "sign-flip"),
        (("--plan", "/nowhere/plan.yaml"), "cannot be read"),
    ],
)
def test_option_that_says_nothing_sensible_is_answered_with_what_does(
    arguments: tuple[str, ...], words: str
) -> None:
    """Exit 2 and the next step, without a server."""
    done = _run("plan", *arguments)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rounds: [", "is no YAML"),
        ("[1, 2]", "holds no plan"),
        ("rounds: many", "is no plan"),
        ("strategi: STRATEGY_KRUM", "strategi"),
    ],
)
def test_file_that_holds_no_plan_is_refused_with_the_place(
    tmp_path: Path, text: str, words: str
) -> None:
    """A field that is misspelt is not left out in silence."""
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    done = _run("plan", "--plan", str(file))
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())


def test_run_that_was_created_takes_no_options() -> None:
    """It has its plan."""
    done = _run("start", "run-1", "--rounds", "3")
    assert done.exit_code == 2
    assert "has its plan" in done.stderr


def test_one_run_is_compared_with_nothing() -> None:
    """Nor a run with itself."""
    assert _run("compare", "run-1", "run-1").exit_code == 2
