"""When a checkpoint is due."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.auditing import START

from aegis.serving.checkpointing.cutting import due
from aegis.serving.checkpointing.store import KeptNote
from aegis.v1.audit_pb2 import (
    AUDIT_KIND_ACCESS,
    AUDIT_KIND_ACTION,
    AUDIT_KIND_CHECKPOINT_PEER,
    AUDIT_KIND_ERASURE,
    AUDIT_KIND_EXECUTION,
    AUDIT_KIND_KEY_CHANGE,
    AUDIT_KIND_POLICY_CHANGE,
)

NEWEST = KeptNote(1, 100, START, "")


def after(seconds: float, size: int, **fresh: float) -> bool:
    """Asks so long after the newest checkpoint of 100 records; `fresh` are kinds by their age."""
    now = START + timedelta(seconds=seconds)
    names = {"access": AUDIT_KIND_ACCESS, "peer": AUDIT_KIND_CHECKPOINT_PEER}
    kinds = {int(names[name]): now - timedelta(seconds=age) for name, age in fresh.items()}
    return due(now, size, NEWEST, kinds)


def test_empty_log_has_no_checkpoint():
    """There is nothing to sign."""
    assert not due(START, 0, None, {})


def test_idle_log_says_so_every_hour():
    """Silence for longer is an alarm."""
    assert not after(3599, 100)
    assert after(3600, 100)


def test_records_are_sealed_after_ten_seconds():
    """However few there are."""
    assert not after(9, 101, access=9)
    assert after(10, 101, access=10)


def test_many_records_are_sealed_at_once():
    """256 do not wait."""
    assert not after(1, 355, access=1)
    assert after(1, 356, access=1)


@pytest.mark.parametrize(
    "kind",
    [
        AUDIT_KIND_ACTION,
        AUDIT_KIND_EXECUTION,
        AUDIT_KIND_POLICY_CHANGE,
        AUDIT_KIND_KEY_CHANGE,
        AUDIT_KIND_ERASURE,
    ],
)
def test_what_changes_the_world_or_the_rules_is_sealed_at_once(kind: int):
    """The one who could hide it has no time to."""
    assert due(START, 101, NEWEST, {kind: START})


def test_checkpoints_of_the_other_log_alone_wait_for_the_hour():
    """Two logs that record each other would never come to rest."""
    assert not after(600, 102, peer=600)
    assert after(3600, 102, peer=600)
