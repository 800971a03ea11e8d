"""Names of actions that oblige to approvals: read as they are meant, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis_policy.names import ACTION
from aegis_policy.obligations import Obligation, is_malformed, obligation_of


@pytest.mark.parametrize(
    ("action", "meant"),
    [
        ("without_1_oncall", Obligation(1, "role:oncall", False, 1)),
        ("without_2_site_owners", Obligation(1, "role:site-owners", False, 2)),
        ("without_signed_1_oncall", Obligation(1, "role:oncall", True, 1)),
        ("step3_without_9_a", Obligation(3, "role:a", False, 9)),
        ("step2_without_signed_2_owners", Obligation(2, "role:owners", True, 2)),
        ("without_1_signed", Obligation(1, "role:signed", False, 1)),
    ],
)
def test_name_says_who_has_to_approve(action: str, meant: Obligation) -> None:
    """Step, group, own key or not, and how many."""
    assert obligation_of(action) == meant
    assert not is_malformed(action)


@pytest.mark.parametrize(
    "action",
    [
        "without_oncall",
        "without_0_oncall",
        "without_10_oncall",
        "without_1_",
        "without_1_9lives",
        "step0_without_1_oncall",
        "step10_without_1_oncall",
        "step_without_1_oncall",
        "step2without_1_oncall",
        "with_out_1_oncall",
    ],
)
def test_name_that_is_nearly_one_obliges_nobody_and_is_told(action: str) -> None:
    """Whoever wrote it believes that somebody has to approve."""
    assert obligation_of(action) is None
    assert is_malformed(action)


@pytest.mark.parametrize("action", ["restart_pod", "read", "*", "without", "step1", "break_glass"])
def test_ordinary_action_obliges_nobody(action: str) -> None:
    """And is not taken for a slip."""
    assert obligation_of(action) is None
    assert not is_malformed(action)


@given(
    st.integers(1, 9),
    st.booleans(),
    st.integers(1, 9),
    st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
)
def test_every_obligation_can_be_written_and_read_back(
    step: int, detached: bool, needed: int, name: str
) -> None:
    """In a name that a rule may have."""
    action = f"step{step}_without_{'signed_' if detached else ''}{needed}_{name}"
    assert ACTION.fullmatch(action)
    group = f"role:{name.replace('_', '-')}"
    assert obligation_of(action) == Obligation(step, group, detached, needed)
