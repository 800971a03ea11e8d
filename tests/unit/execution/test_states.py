"""The state machine of actions: complete, and without a way back from an end."""

from __future__ import annotations

import pytest

from aegis_server.execution.states import (
    ENDED,
    FOLLOWS,
    NOT_HEALED,
    NOTHING,
    UNHELPED,
    WAITING,
    S,
    name_of,
    way,
)

STATES = frozenset(S.State.values())


def test_every_state_of_the_contract_is_in_the_machine():
    """And no other: one that were forgotten could be left by nobody, or entered by anybody."""
    assert set(FOLLOWS) == STATES
    assert frozenset().union(*FOLLOWS.values()) <= STATES


def test_every_state_can_be_reached():
    """From nothing, by steps that follow each other."""
    reached, waiting = {NOTHING}, [NOTHING]
    while waiting:
        for state in FOLLOWS[waiting.pop()] - reached:
            reached.add(state)
            waiting.append(state)
    assert reached == STATES


def test_nothing_comes_after_an_end():
    """Except what a person found out about the one that nobody knew."""
    for state in ENDED - {S.STATE_UNKNOWN}:
        assert FOLLOWS[state] == frozenset()
    assert FOLLOWS[S.STATE_UNKNOWN] <= ENDED
    assert not ENDED & WAITING
    assert {S.STATE_DISPATCHED, S.STATE_APPLIED}.isdisjoint(ENDED)


def test_what_waits_for_people_never_skips_being_sent():
    """Only what was dispatched is applied, only what was applied is judged."""
    for wanted, only in (
        (S.STATE_APPLIED, S.STATE_DISPATCHED),
        (S.STATE_VERIFIED, S.STATE_APPLIED),
        (S.STATE_APPROVED, S.STATE_PENDING_APPROVAL),
    ):
        assert {state for state, after in FOLLOWS.items() if wanted in after} == {only}


@pytest.mark.parametrize(
    ("current", "wanted", "steps"),
    [
        ("DISPATCHED", "APPLIED", ["APPLIED"]),
        ("DISPATCHED", "VERIFIED", ["APPLIED", "VERIFIED"]),
        ("DISPATCHED", "REFUSED", ["REFUSED"]),
        ("DISPATCHED", "DRY_RUN", ["DRY_RUN"]),
        ("APPLIED", "COMPENSATED", ["COMPENSATED"]),
        ("APPLIED", "APPLIED", []),
        ("APPLIED", "FAILED", []),
        ("VERIFIED", "INEFFECTIVE", []),
        ("CANCELLED", "APPLIED", []),
        ("PENDING_APPROVAL", "APPLIED", []),
    ],
)
def test_way_to_what_the_executor_says(current: str, wanted: str, steps: list[str]):
    """Through APPLIED where a server was away meanwhile, so that no record is missing."""
    state = {name: S.State.Value(f"STATE_{name}") for name in (current, wanted, *steps)}
    assert way(state[current], state[wanted]) == tuple(state[name] for name in steps)


def test_what_did_not_help_is_not_healed():
    """The next rung is proposed for what is counted as of no use, and never for success."""
    assert UNHELPED < NOT_HEALED < ENDED
    assert S.STATE_VERIFIED not in NOT_HEALED


def test_names_are_those_of_the_audit_log():
    """In lower case, without the prefix."""
    assert name_of(S.STATE_PENDING_APPROVAL) == "pending_approval"
