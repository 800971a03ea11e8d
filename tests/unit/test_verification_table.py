"""The table of refusals: what is missing is told, and a mark that is not true fails its test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripts import verification_table
from scripts.verification_table import EXECUTOR, SERVER, STEPS, Shown, codes, documented, problems
from tests import refusing

from aegis.errors import Aborted, FailedPrecondition

MARKS = verification_table.shown(Path(verification_table.ROOT / "tests"))


def test_every_step_and_every_reason_has_a_test():
    """As `make check` sees it."""
    assert problems(MARKS) == []
    assert {mark.step for mark in MARKS} == {0, *STEPS}


def test_missing_test_is_told():
    """Of a step of the executor, and of the server."""
    few = [mark for mark in MARKS if mark.reason not in ("PLAN_DRIFT", "APPROVAL_OWN")]
    assert problems(few) == [
        "no test shows the server's APPROVAL_OWN",
        "no test shows step 15 PLAN_DRIFT",
    ]


def test_refusal_that_nobody_lists_is_told():
    """At a step where it does not happen."""
    more = [*MARKS, Shown(3, "PLAN_DRIFT", "tests/x.py::test_x")]
    assert problems(more) == ["step 3 PLAN_DRIFT is not listed"]


def test_protos_are_read():
    """A reason of one word is one, and a state is none."""
    assert "FENCED" in documented(EXECUTOR)
    assert "PENDING_APPROVAL" not in documented(SERVER)
    assert codes()["PLAN_DRIFT"] == ("ABORTED",)


def run(happens: Any, *reasons: str) -> None:
    """A test with a mark, as pytest calls it."""
    mark = SimpleNamespace(args=reasons)
    hook = refusing.pytest_runtest_call(SimpleNamespace(iter_markers=lambda _: [mark]))
    next(hook)
    happens()
    with pytest.raises(StopIteration):
        hook.send(None)


def test_mark_of_what_happens_is_good():
    """One of the reasons of a mark is enough: cases share them."""
    run(lambda: Aborted("PLAN_DRIFT", "it drifted"), "PLAN_DRIFT", "FENCED")


def test_mark_of_what_does_not_happen_fails():
    """A test that was changed keeps no claim it no longer shows."""
    with pytest.raises(AssertionError, match="nobody was refused so"):
        run(lambda: Aborted("FENCED", "gone"), "PLAN_DRIFT")


def test_refusal_with_another_code_fails():
    """errors.proto says which one a caller may count on."""
    with pytest.raises(AssertionError, match="came as FAILED_PRECONDITION"):
        run(lambda: FailedPrecondition("PLAN_DRIFT", "it drifted"), "PLAN_DRIFT")
