"""How lines about actions are laid out."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from aegis.cli.action import telling
from aegis.v1 import execution_pb2

LINE = "  ✗ cool_down  held COOLING_DOWN: done to it 5 s ago, cools down for 30 s; not before 2:10"


def printed(line: str, *, terminal: bool) -> list[str]:
    written = io.StringIO()
    telling.tell([Text(line)], Console(file=written, width=60, force_terminal=terminal))
    return written.getvalue().splitlines()


def test_long_line_is_folded_below_its_beginning_in_a_terminal():
    """Nothing is lost, and what follows is further in than what begins."""
    first, *rest = printed(LINE, terminal=True)
    assert rest
    assert all(len(each) <= 60 for each in (first, *rest))
    assert all(each.startswith("      ") for each in rest)
    assert " ".join([first.strip(), *(each.strip() for each in rest)]) == LINE.strip()


@pytest.mark.parametrize("word", ["x" * 200, "  " + "y" * 61])
def test_word_longer_than_the_terminal_is_cut_and_kept(word: str):
    """A digest on a narrow screen."""
    assert "".join(each.strip() for each in printed(word, terminal=True)) == word.strip()


def test_line_stays_whole_for_programs():
    """`grep` finds it."""
    assert printed(LINE, terminal=False) == [LINE]


@pytest.mark.parametrize(
    ("state", "reviews", "open_"),
    [
        (execution_pb2.Action.STATE_VERIFIED, 1, True),
        (execution_pb2.Action.STATE_VERIFIED, 2, False),
        (execution_pb2.Action.STATE_DENIED, 0, False),
    ],
)
def test_broken_glass_is_open_until_two_answered(
    state: execution_pb2.Action.State.ValueType, reviews: int, open_: bool
):
    """A denied one broke nothing."""
    action = execution_pb2.Action(state=state, break_glass=True)
    for _ in range(reviews):
        action.reviews.add(approver="user:mia")
    assert telling.unanswered(action) is open_


def test_scope_of_a_gate_is_told_behind_its_name():
    """So that one long name does not push every message to the right."""
    gates = [
        execution_pb2.Gate(
            name="breaker.target shop/deployments/checkout",
            verdict=execution_pb2.Gate.VERDICT_PASSED,
            message="closed",
        ),
        execution_pb2.Gate(name="storm", verdict=execution_pb2.Gate.VERDICT_PASSED, message="calm"),
    ]
    assert [each.plain for each in telling.gates(gates)] == [
        "  ✓ breaker.target  shop/deployments/checkout: closed",
        "  ✓ storm           calm",
    ]
