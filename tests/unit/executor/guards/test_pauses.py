"""The kill switch: rows by scope, and a file whose existence is enough."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from tests.guarding import NOW, asked, gates, history, named, refusals

from aegis.errors import FailedPrecondition
from aegis_executor.catalogue.base import Kind
from aegis_executor.guards.gates import error_of
from aegis_executor.guards.pauses import Pause, PauseFile


def pause(namespace: str = "", action: str = "", **ends: float) -> Pause:
    until = NOW + timedelta(**ends) if ends else None
    return Pause("p-1", namespace, action, "user:ada", "network work", NOW, until)


@pytest.mark.parametrize(
    ("laid", "holds"),
    [
        (pause(), True),
        (pause("demo"), True),
        (pause("shop"), False),
        (pause("", "scale_deployment"), True),
        (pause("", "restart_pod"), False),
        (pause("demo", "scale_deployment"), True),
        (pause("demo", "restart_pod"), False),
        (pause(seconds=1), True),
        (pause(seconds=0), False),
    ],
)
def test_pause_holds_within_its_scope_and_time(laid: Pause, holds: bool):
    """Everything, a namespace, an action, or both."""
    assert (refusals(asked(), history(pauses=[laid])) == ["pause"]) is holds


def test_pause_says_who_and_why():
    """Scope and author travel as metadata."""
    gate = named(gates(asked(), history(pauses=[pause("demo", hours=1)])), "pause")
    error = error_of(gate, NOW)
    assert isinstance(error, FailedPrecondition)
    assert (error.reason, error.metadata) == (
        "EXECUTION_PAUSED",
        {"scope": "namespace demo", "by": "user:ada"},
    )
    assert "network work" in error.message
    assert gate.retry_at == NOW + timedelta(hours=1)


def test_pause_of_any_namespace_holds_for_nodes():
    """A node carries pods of every namespace."""
    node = asked("node-1", namespace="", kind=Kind.NODE, verb="cordon_node")
    assert refusals(node, history(pauses=[pause("demo")])) == ["pause"]


@pytest.mark.parametrize("level", [{"pauses": [pause()]}, {"local_pause": "fire"}])
def test_broken_glass_does_not_pass_the_kill_switch(level: dict[str, object]):
    """Neither level, nor a clock that nothing keeps."""
    ask = asked(break_glass=True, approved=True)
    assert len(refusals(ask, history(**level))) == 1
    assert refusals(ask, history(clock_trusted=False)) == ["clock"]


def test_file_pauses_as_long_as_it_exists(tmp_path: Path):
    """Its first line is the reason; nothing has to be told to read it."""
    path = tmp_path / "pause"
    file = PauseFile(path)
    assert file.reason() == ""
    path.write_text("storage is on fire\nsecond line")
    assert file.reason() == "storage is on fire"
    path.write_text("")
    assert file.reason() == f"{path} is there"
    path.unlink()
    assert file.reason() == ""
    assert PauseFile(None).reason() == ""


def test_whatever_cannot_be_read_is_a_pause(tmp_path: Path):
    """A folder, a pipe, a link to nowhere, a file in a folder that went away: somebody meant it."""
    for make in (
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to(tmp_path / "nowhere"),
    ):
        path = tmp_path / f"pause-{len(list(tmp_path.iterdir()))}"
        make(path)
        assert "no plain file" in PauseFile(path).reason()
    assert "is missing" in PauseFile(tmp_path / "gone" / "pause").reason()
    (tmp_path / "file").touch()
    assert "cannot be looked at" in PauseFile(tmp_path / "file" / "pause").reason()


def test_file_without_the_right_to_read_it_is_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Root reads everything, so the refusal is the system's, played."""
    path = tmp_path / "pause"
    path.write_text("x")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert "cannot be read" in PauseFile(path).reason()


def test_bytes_that_are_no_text_are_a_pause(tmp_path: Path):
    """And a very long first line is cut."""
    path = tmp_path / "pause"
    path.write_bytes(b"\xff" * 10_000)
    assert 0 < len(PauseFile(path).reason()) <= 200
