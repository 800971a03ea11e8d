"""Tables of the CLI: readable where there is little room, whole where nobody looks."""

from __future__ import annotations

import pytest
from rich.console import Console

from aegis.cli import session

COLUMNS = ["run", "state", "by"]
ROWS = [("run-0123456789", "completed [/]", "service:coordinator")]


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], console: Console):
    monkeypatch.setattr(session, "out", console)
    session.show_table("runs", COLUMNS, ROWS, spare=["by"])
    return capsys.readouterr().out


def test_narrow_terminal_leaves_out_whole_columns(monkeypatch, capsys):
    """The spare column goes, the others stay in one line, and the reader is told."""
    console = Console(force_terminal=True, width=40, color_system=None)
    text = shown(monkeypatch, capsys, console)
    assert "run-0123456789  completed [/]" in text
    assert "coordinator" not in text
    assert "no room for: by" in " ".join(text.split())


def test_pipe_gets_everything_in_one_line(monkeypatch, capsys):
    """Nobody's terminal is a measure for a file, and brackets in a cell are only text."""
    text = shown(monkeypatch, capsys, Console(width=20))
    assert "run-0123456789  completed [/]  service:coordinator" in text
