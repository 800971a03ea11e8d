"""Who was let in to ask questions is remembered, and no longer than they may."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from aegis.errors import PermissionDenied
from aegis.serving.auditlog import Entry
from aegis.serving.database import Database
from aegis.spiffe import Caller
from aegis_policy import Engine
from aegis_server.access import Access
from aegis_server.policy.decisions import Decisions, Snapshot

EVALUATE = "/aegis.v1.PolicyService/Evaluate"
ANN = Caller("user:ann", "")
MAY = "p, role:asker, *, /policy, evaluate, , allow, askers-ask\n"
MORNINGS = (
    "p, role:asker, *, /policy, evaluate, \"weekly('Mon-Fri', '06:00', '12:00', 'UTC')\","
    " allow, mornings\n"
)


class Record:
    """An audit log that keeps what it is told."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    async def record(self, entry: Entry) -> None:
        self.entries.append(entry)


class House:
    """Access by rules, roles and a clock that the test sets."""

    def __init__(self, rules: str) -> None:
        self.now = datetime(2026, 3, 2, 11, 59, tzinfo=UTC)
        self.held: tuple[str, ...] = ("role:asker",)
        self.record = Record()
        self.decisions = Decisions(
            Database("postgresql://", application="test"),
            cache=None,
            clock=lambda: self.now,
            registry=CollectorRegistry(),
            held_roles=lambda subject: self.held,
        )
        self.use(1, rules)
        self.access = Access(self.decisions, self.record)  # type: ignore[arg-type]

    def use(self, revision: int, rules: str) -> None:
        self.decisions.adopt(Snapshot(revision, bytes([revision]) * 32, Engine.from_csv(rules)))


async def test_grant_says_rule_and_revision_each_time() -> None:
    """The remembered one is the same as the first, and neither is in the audit log."""
    house = House(MAY)
    grants = [await house.access.admit(EVALUATE, ANN) for _ in range(3)]
    assert {(grant.revision, grant.rule_id) for grant in grants} == {(1, "askers-ask")}
    assert house.record.entries == []


async def test_role_that_was_taken_away_counts_at_the_next_call() -> None:
    """The directory said so a moment ago; the refusal is recorded."""
    house = House(MAY)
    await house.access.admit(EVALUATE, ANN)
    house.held = ()
    with pytest.raises(PermissionDenied):
        await house.access.admit(EVALUATE, ANN)
    assert [entry.outcome for entry in house.record.entries] == ["deny"]


async def test_new_rules_count_at_the_next_call() -> None:
    """What an older revision granted is not remembered into the next."""
    house = House(MAY)
    await house.access.admit(EVALUATE, ANN)
    house.use(2, MAY.replace("allow, askers-ask", "deny, nobody-asks"))
    with pytest.raises(PermissionDenied, match="nobody-asks"):
        await house.access.admit(EVALUATE, ANN)


async def test_window_that_closes_is_not_remembered_open() -> None:
    """A grant that reads the clock is asked for each time."""
    house = House(MORNINGS)
    await house.access.admit(EVALUATE, ANN)
    house.now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    with pytest.raises(PermissionDenied):
        await house.access.admit(EVALUATE, ANN)


async def test_key_with_other_scopes_is_not_let_in_by_what_its_owner_may() -> None:
    """Scopes are of the credential, not of the subject that is remembered."""
    house = House(MAY)
    await house.access.admit(EVALUATE, ANN)
    narrow = Caller("user:ann", "", method="api-key", scopes=("read:/policy",))
    with pytest.raises(PermissionDenied) as caught:
        await house.access.admit(EVALUATE, narrow)
    assert caught.value.reason == "SCOPE_INSUFFICIENT"
