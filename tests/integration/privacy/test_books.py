"""What people do with ledgers: limits, new accounts, and what the record says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.integration.privacy.conftest import DATASET, PLAN

from aegis.errors import AegisError, FailedPrecondition, NotFound
from aegis.serving.doors import Grant
from aegis_server.privacy.book import Limit
from aegis_server.privacy.books import Actor

ADMIN = Actor("user:admin", "the board has agreed", Grant(7, "admin-may-everything"))


async def test_limit_holds_from_its_commit_on(room: Any) -> None:
    """For one, or for all that have none of their own."""
    await room.invite("north")
    await room.books.limit(DATASET, "*", Limit(5.0, 1e-3), ADMIN)
    with pytest.raises(FailedPrecondition) as refused:
        await room.reserve("south")
    assert refused.value.metadata["epsilon_limit"] == "5"
    standing = await room.books.limit(DATASET, "north", Limit(30.0, 1e-3), ADMIN)
    assert (standing.limit.epsilon, standing.spent) == (30.0, 0.0)
    for _ in range(3):
        await room.reserve("north")
    assert 20 < await room.spent("north") <= 30


async def test_limit_of_another_delta_counts_at_that_delta(room: Any) -> None:
    """A stricter one costs more for the same runs."""
    await room.reserve("north")
    before = await room.spent("north")
    await room.books.limit(DATASET, "north", Limit(20.0, 1e-6), ADMIN)
    assert await room.spent("north") > before


async def test_limit_somebody_else_has_changed_is_not_overwritten(room: Any) -> None:
    """Compare and set: what is replaced is what was seen."""
    await room.books.limit(DATASET, "*", Limit(5.0, 1e-3), ADMIN, expected=20.0)
    with pytest.raises(FailedPrecondition) as refused:
        await room.books.limit(DATASET, "*", Limit(50.0, 1e-3), ADMIN, expected=20.0)
    assert (refused.value.reason, refused.value.metadata["state"]) == ("STATE_CONFLICT", "5")
    book, _, _ = await room.books.look(DATASET)
    assert book.limit("*") == Limit(5.0, 1e-3)


async def test_new_account_has_spent_nothing_and_the_old_one_stays_readable(room: Any) -> None:
    """Nothing is ever deleted."""
    run_id = await room.reserve("north")
    await room.settle(run_id, north=60)
    standing = await room.books.reset(DATASET, "north", ADMIN)
    assert (standing.account, standing.spent, standing.entries) == (2, 0.0, 0)
    later = await room.reserve("north", mechanism=replace(PLAN, steps=5))
    _, _, entries = await room.books.look(DATASET)
    assert [(entry.run_id, entry.account) for entry in entries] == [(later, 2)]
    _, _, entries = await room.books.look(DATASET, history=True)
    assert [(entry.run_id, entry.account) for entry in entries] == [(later, 2), (run_id, 1)]


async def test_reset_of_one_leaves_the_others_and_what_all_bear(room: Any) -> None:
    """New rows at one site are no new rows elsewhere."""
    small = replace(PLAN, steps=6)
    for participants in (("north", "south"), ("*",)):
        await room.settle(await room.reserve(*participants, mechanism=small))
    before, shared = await room.spent("south"), await room.spent()
    await room.books.reset(DATASET, "north", ADMIN)
    assert await room.spent("south") == before
    assert await room.spent("north") == shared > 0


async def test_reset_of_everybody_begins_an_account_for_each(room: Any) -> None:
    """Also for who has had more resets than others."""
    await room.settle(await room.reserve("north", "south"))
    await room.books.reset(DATASET, "north", ADMIN)
    await room.settle(await room.reserve("*", mechanism=replace(PLAN, steps=6)))
    standing = await room.books.reset(DATASET, "*", ADMIN)
    assert (standing.participant, standing.account) == ("*", 2)
    _, standings, entries = await room.books.look(DATASET)
    assert [(each.participant, each.account, each.spent) for each in standings] == [
        *(("*", 2, 0.0), ("north", 3, 0.0), ("south", 2, 0.0))
    ]
    assert entries == []


async def test_account_is_not_replaced_under_an_open_run(room: Any) -> None:
    """It would be charged to the account that is over; a simulation is charged to none."""
    run_id = await room.reserve("south")
    simulated = await room.reserve("*", simulation=True)
    for participant in ("south", "*"):
        with pytest.raises(FailedPrecondition) as refused:
            await room.books.reset(DATASET, participant, ADMIN)
        assert refused.value.reason == "STATE_CONFLICT"
        assert refused.value.metadata["resource"] == run_id
    await room.settle(run_id)
    assert (await room.books.reset(DATASET, "south", ADMIN)).spent == 0
    await room.settle(simulated)


async def test_acts_are_recorded_with_what_they_changed(room: Any) -> None:
    """Who, why, by which rule, from what to what, and how the data set stands since."""
    await room.settle(await room.reserve("north"))
    await room.books.limit(DATASET, "north", Limit(9.0, 1e-4), ADMIN)
    await room.books.reset(DATASET, "north", ADMIN)
    limit, reset = await room.records()
    assert (limit.action, limit.outcome, limit.actor) == ("limit", "set", "user:admin")
    assert (limit.reason, limit.rule_id) == ("the board has agreed", "admin-may-everything")
    assert (limit.policy_revision, limit.resource) == (7, f"/training/privacy/{DATASET}")
    assert limit.details["participant"] == "north"
    assert (limit.details["epsilon_limit_before"], limit.details["epsilon_limit"]) == ("20", "9")
    assert (limit.details["delta_before"], limit.details["delta"]) == ("0.001", "0.0001")
    assert (reset.action, reset.outcome, reset.details["account"]) == ("reset", "begun", "2")
    assert float(reset.details["epsilon_spent_before"]) > 8
    assert reset.details["budget_spent_epsilon"] == "0.000000"


async def test_refused_acts_change_and_record_nothing(room: Any) -> None:
    """One transaction: the act, and the record of it."""
    await room.reserve("north")
    with pytest.raises(FailedPrecondition):
        await room.books.reset(DATASET, "north", ADMIN)
    assert await room.records() == []


@pytest.mark.parametrize(
    ("dataset", "participant"), [("no-such-rows", ""), (DATASET, "nobody")], ids=["rows", "name"]
)
async def test_ledger_of_nothing_is_not_found(room: Any, dataset: str, participant: str) -> None:
    """A limit for a name that was mistyped would protect nobody."""
    name = participant or "*"
    for deed in (
        room.books.look(dataset, participant=participant),
        room.books.limit(dataset, name, Limit(5.0, 1e-3), ADMIN),
        room.books.reset(dataset, name, ADMIN),
        room.books.certify(dataset, name),
    ):
        with pytest.raises(NotFound) as refused:
            await deed
        assert isinstance(refused.value, AegisError)
        assert refused.value.reason == "RESOURCE_NOT_FOUND"


async def test_registered_data_sets_and_invited_participants_have_ledgers(room: Any) -> None:
    """Before anything was spent."""
    await room.invite("north")
    async with room.database.transaction() as connection:
        await register(connection, "stroke-unit")
    _, (standing,), entries = await room.books.look("stroke-unit", participant="north")
    assert (standing.spent, standing.limit.epsilon, standing.account) == (0.0, 20.0, 1)
    assert entries == []


async def register(connection: Any, name: str) -> None:
    """Registers a data set of which the ledger needs to know nothing but its name."""
    await connection.execute(
        """
        insert into aegis.dataset
            (name, schema, schema_sha256, description, provenance, consent_basis, public, owner,
             created_at, evaluation_sha256, golden_rows, test_rows)
        values (%s, '', %s, '', '', '', false, 'user:admin', now(), %s, 0, 0)
        """,
        (name, bytes(32), bytes(32)),
    )
