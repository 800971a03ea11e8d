"""Reserving and settling: atomic, for all participants or none, and never beyond a limit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.integration.privacy.conftest import DATASET, PLAN, now, stored_run

from aegis.errors import FailedPrecondition
from aegis.serving.database import Database
from aegis.serving.doors import Grant
from aegis_learning import privacy
from aegis_server.privacy.book import PARTICIPANT, Limit, Mechanism
from aegis_server.privacy.books import Actor
from aegis_server.training.store import insert_run

ADMIN = Actor("user:admin", "a test", Grant(1, "admin-may-everything"))


async def _rows(room: Any) -> list[tuple[Any, ...]]:
    async with room.database.transaction() as connection:
        cursor = await connection.execute(
            """
            select participant, account, steps_reserved, steps, settled, simulation, unit, model
            from aegis.privacy_entry order by created_at, participant
            """
        )
        return await cursor.fetchall()


async def test_reservation_is_what_the_whole_run_may_cost(room: Any) -> None:
    """It counts at once, and an entry says what it is made of."""
    await room.reserve("north", "south", model="logistic")
    assert await room.spent("north") == await room.spent("south") == pytest.approx(12.0, abs=0.01)
    assert await room.spent("west") == await room.spent() == 0
    assert [row[:5] for row in await _rows(room)] == [
        *(("north", 1, 60, 60, False), ("south", 1, 60, 60, False))
    ]
    assert {row[7] for row in await _rows(room)} == {"logistic"}


async def test_run_that_would_overdraw_one_reserves_at_nobody(room: Any) -> None:
    """The first of them is named, and the run is not stored either."""
    await room.reserve("south")
    await room.reserve("south")
    before = await _rows(room)
    with pytest.raises(FailedPrecondition) as refused:
        await room.reserve("north", "south", "west")
    assert refused.value.reason == "PRIVACY_BUDGET_EXHAUSTED"
    assert refused.value.metadata["participant"] == "south"
    assert float(refused.value.metadata["epsilon_spent"]) == pytest.approx(
        await room.spent("south"), abs=1e-4
    )
    assert await _rows(room) == before
    async with room.database.transaction() as connection:
        cursor = await connection.execute("select count(*) from aegis.run")
        assert await cursor.fetchone() == (2,)


async def test_families_of_models_share_an_account(room: Any) -> None:
    """A row does not care what was trained on it."""
    await room.reserve("north", model="mlp")
    await room.reserve("north", model="logistic")
    with pytest.raises(FailedPrecondition):
        await room.reserve("north", model="mlp-64")
    await room.reserve("south", model="mlp-64")


async def test_sites_without_a_name_are_borne_by_everybody(room: Any) -> None:
    """By who comes later as well; and they need room at everybody the ledger knows."""
    await room.reserve("*")
    assert await room.spent("north") == await room.spent()
    await room.reserve("north")
    with pytest.raises(FailedPrecondition) as refused:
        await room.reserve("*")
    assert refused.value.metadata["participant"] == "north"
    await room.reserve("south")


async def test_data_sets_have_ledgers_of_their_own(room: Any) -> None:
    """Rows of one are no rows of another."""
    for _ in range(2):
        await room.reserve("north")
        await room.reserve("north", dataset="other-rows")


async def test_simulation_is_listed_and_costs_nothing(room: Any) -> None:
    """Its rows are no secret."""
    for _ in range(4):
        await room.reserve("*", simulation=True)
    assert await room.spent() == 0
    assert [row[5] for row in await _rows(room)] == [True] * 4


async def test_settling_gives_back_what_was_not_used(room: Any) -> None:
    """And who is not named has used all of it: nobody knows better."""
    run_id = await room.reserve("north", "south", "west")
    await room.settle(run_id, north=20, west=0)
    assert await room.spent("north") == pytest.approx(
        privacy.epsilon(PLAN.noise_multiplier, 0.3, 20, 1e-3)
    )
    assert await room.spent("south") == pytest.approx(
        privacy.epsilon(PLAN.noise_multiplier, 0.3, 60, 1e-3)
    )
    assert await room.spent("west") == 0
    assert all(row[4] for row in await _rows(room))


async def test_settling_never_charges_more_and_only_once(room: Any) -> None:
    """Whatever a coordinator says, and however often."""
    run_id = await room.reserve("north", "south")
    await room.settle(run_id, north=10_000, south=10)
    await room.settle(run_id, north=0, south=5)
    assert [row[2:4] for row in await _rows(room)] == [(60, 60), (60, 10)]
    with pytest.raises(ValueError, match="fewer than no steps"):
        await room.settle(run_id, north=-1)


async def test_run_that_never_reserved_has_nothing_to_settle(room: Any) -> None:
    """One that was created and not started."""
    await room.settle("run-unknown", everybody=3)
    assert await _rows(room) == []


async def test_reservation_lives_and_dies_with_its_transaction(room: Any) -> None:
    """A server that dies in the middle has reserved nothing."""
    with pytest.raises(RuntimeError):
        async with room.database.transaction() as connection:
            await insert_run(connection, stored_run("run-lost"))
            await room.ledger.reserve(
                connection,
                run_id="run-lost",
                dataset=DATASET,
                participants=("north",),
                mechanism=PLAN,
                simulation=False,
                model="mlp",
                at=now(),
            )
            raise RuntimeError
    assert await room.spent("north") == 0


@pytest.mark.parametrize("participants", [(), ("*", "north")], ids=["nobody", "mixed"])
async def test_reservation_of_nobody_or_of_some_beside_everybody_is_none(
    room: Any, participants: tuple[str, ...]
) -> None:
    """It would be unclear who bears it."""
    async with room.database.transaction() as connection:
        with pytest.raises(ValueError, match="alone"):
            await room.ledger.reserve(
                connection,
                run_id="run-x",
                dataset=DATASET,
                participants=participants,
                mechanism=PLAN,
                simulation=False,
                model="mlp",
                at=now(),
            )


async def test_whole_participants_are_counted_at_half_the_noise(room: Any) -> None:
    """In the same account: it is each record's."""
    await room.reserve("*", mechanism=Mechanism(8.0, 1.0, 15, unit=PARTICIPANT))
    assert await room.spent() == pytest.approx(privacy.epsilon(4.0, 1.0, 15, 1e-3))


async def test_two_servers_that_reserve_at_once_do_not_overdraw(
    room: Any, server_database_url: str
) -> None:
    """As many runs begin as fit one after the other, and not one more; at every participant."""
    other = Database(server_database_url, application="another server")
    await other.open()
    mechanism = replace(PLAN, steps=10)
    try:
        results = await asyncio.gather(
            *(
                room.reserve(
                    *(("north", "south") if number % 2 else ("south", "west")),
                    mechanism=mechanism,
                    database=other if number % 3 else room.database,
                )
                for number in range(24)
            ),
            return_exceptions=True,
        )
    finally:
        await other.close()
    begun = [each for each in results if isinstance(each, str)]
    assert all(isinstance(each, str | FailedPrecondition) for each in results)
    # Everybody needs the south: what fits there is what fits.
    fits = max(
        n
        for n in range(25)
        if privacy.epsilon(PLAN.noise_multiplier, 0.3, 10 * n, 1e-3) <= room.ledger.epsilon
    )
    assert len(begun) == fits < 24
    for participant in ("north", "south", "west"):
        assert await room.spent(participant) <= 20


async def test_run_ends_whatever_becomes_of_its_limit(room: Any) -> None:
    """What it may cost was set aside at the start: nothing runs out in the middle of a round."""
    run_id = await room.reserve("north")
    await room.books.limit(DATASET, "north", Limit(0.5, 1e-3), ADMIN)
    with pytest.raises(FailedPrecondition):
        await room.reserve("north", mechanism=replace(PLAN, steps=1))
    await room.settle(run_id, north=60)
    assert await room.spent("north") == pytest.approx(12.0, abs=0.01)


async def test_statement_of_records_is_of_who_is_nearest_to_the_limit(room: Any) -> None:
    """One line of a record says how a data set stands."""
    await room.reserve("north", "south")
    await room.reserve("south")
    async with room.database.transaction() as connection:
        said = await room.ledger.statement(connection, DATASET)
    assert said["budget_participant"] == "south"
    assert float(said["budget_spent_epsilon"]) == pytest.approx(await room.spent("south"), abs=1e-6)
