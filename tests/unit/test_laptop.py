"""The guards of the executor in front of the sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis.local import laptop
from aegis.local.stack import Stack
from aegis_executor.guards.numbers import Numbers


def test_every_guard_still_refuses_only_sooner_over(tmp_path: Path):
    """The executor takes the file, waits are shorter than the defaults, and none is nothing."""
    told = Numbers.of_file(Path(laptop.settings(tmp_path)["AEGIS_EXECUTOR_GUARDS"]))
    usual = Numbers()
    assert 0 < told.cool_down_seconds < usual.cool_down_seconds
    assert 0 < told.storm.quiet_seconds < usual.storm.quiet_seconds
    assert 0 < told.breakers.open_seconds < usual.breakers.open_seconds
    assert (told.attempts, told.concurrent) == (usual.attempts, usual.concurrent)
    assert told.hourly.everywhere < 100


def test_file_that_somebody_changed_is_left_alone(tmp_path: Path):
    """It is theirs once it is written."""
    (tmp_path / "guards.toml").write_text("attempts = 1\n")
    file = Path(laptop.settings(tmp_path)["AEGIS_EXECUTOR_GUARDS"])
    assert Numbers.of_file(file).attempts == 1


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "guards.toml"),
        ({"AEGIS_EXECUTOR_GUARDS": "/mine.toml"}, "mine.toml"),
        ({"KUBECONFIG": "/cluster"}, ""),
    ],
)
def test_real_cluster_gets_the_defaults_and_the_user_wins(
    tmp_path: Path, given: dict[str, str], wanted: str
):
    """Numbers of a laptop are for the sandbox."""
    chosen = Stack(tmp_path, given=given).executor_given
    assert Path(chosen.get("AEGIS_EXECUTOR_GUARDS", "")).name == wanted
