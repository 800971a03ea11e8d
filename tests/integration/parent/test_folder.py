"""The folder of a parent, and those of parents that were killed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from aegis_server.parent.program import _private_folder


def test_folders_that_killed_parents_left_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Those of parents that live, or are about to, stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, young, other = (
        tmp_path / name for name in ("aegis-workers-left", "aegis-workers-young", "other")
    )
    for folder in (left, young, other):
        folder.mkdir()
    (left / "0.ready").touch()
    with _private_folder() as living:
        for folder in (left, other, living):
            os.utime(folder, (0, 0))
        with _private_folder() as ours:
            assert sorted(tmp_path.iterdir()) == sorted([young, other, living, ours])
            assert ours.stat().st_mode & 0o777 == 0o700
    assert sorted(tmp_path.iterdir()) == sorted([young, other])
