"""The whole way: rounds that are really judged, and what becomes of who sent what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.blobs import blobs_in
from tests.reviewing import Making, desks_for
from tests.unit.review.factories import a_round

from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Call, Grant
from aegis.spiffe import Caller
from aegis_learning.datasets import load
from aegis_learning.parameters import digest
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.review import store
from aegis_server.review.case import Verdict
from aegis_server.review.cases import Rooms
from aegis_server.review.standing import store as standing_store
from aegis_server.review.standing.counting import Counts
from aegis_server.review.standing.standings import Standings
from aegis_server.review.store import RoundKey
from aegis_server.review.updates import Base

CASE = a_round(s3="sign-flip")


class OneRun:
    """The training room's answer for any round."""

    def __init__(self, base: Base) -> None:
        self.base = base

    async def base_of(self, run_id: str, round: int) -> Base:  # noqa: A002
        """Every round starts from the same model."""
        return self.base


class House:
    """A review room with its memory."""

    def __init__(self, making: Making, standings: Standings) -> None:
        self.making, self.standings = making, standings
        self.room = making.room()

    async def judged(self, number: int) -> dict[str, str]:
        """Has a round with the attacker judged; returns verdicts by participant."""
        key, now = RoundKey("run-1", number, 1), self.making.clock()
        async with self.making.database.transaction() as connection:
            await store.open_round(connection, key)
            for each in CASE.submissions:
                await self.making.blobs.put(each.data)
                await store.insert(
                    connection,
                    key,
                    update_id=f"upd-{number}-{each.update_id}",
                    participant=each.update_id,
                    enrolled=True,
                    sha256=digest(each.data),
                    size_bytes=len(each.data),
                    by="service:coordinator",
                    now=now,
                )
        await self.room.rounds.ask(key, by("service:coordinator"))
        found = await self.room.rounds.judged(key)
        return {update.participant: update.verdict.value for update in found.updates}

    async def standing(self, name: str) -> standing_store.StandingRow:
        return (await self.standings.get(name))[0].row


def by(subject: str) -> Call:
    spiffe = f"spiffe://aegis.local/{subject.replace(':', '/')}"
    return Call("/aegis.v1.ReviewService/OverrideVerdict", Caller(subject, spiffe), Grant(1, "r"))


@pytest.fixture
async def house(
    server_tables: str, server_database_url: str, tmp_path: Path
) -> AsyncIterator[House]:
    def now() -> datetime:
        return datetime.now(UTC)

    async with AsyncExitStack() as stack:
        database = Database(server_database_url, application="test")
        await database.open()
        stack.push_async_callback(database.close)
        audit = AuditLog(database, log_id="test", clock=now)
        writer = asyncio.create_task(audit.run())
        registry = CollectorRegistry()
        decisions = Decisions(
            database,
            cache=None,
            clock=now,
            registry=registry,
            held_roles=lambda subject: ("role:operator",) if subject == "user:olga" else (),
        )
        await Revisions(database, audit=audit, decisions=decisions, clock=now).ensure_first()
        await decisions.open()
        blobs = blobs_in(tmp_path / "blobs")
        examples = {each.update_id: each.examples for each in CASE.submissions}
        base = Base(
            load("breast-cancer"), CASE.family.name, await blobs.put(CASE.base), examples=examples
        )
        standings = Standings(database, clock=now, counts=Counts(registry))
        making = Making(
            database,
            audit,
            blobs,
            OneRun(base),
            decisions,
            now,
            desks_for(stack),
            Deeds(),
            rooms=Rooms(memory=standings),
        )
        yield House(making, standings)
        await making.deeds.drain()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


async def test_attacker_of_three_judged_rounds_is_proposed_and_the_honest_are_not(house: House):
    """Nobody called anything but ReviewRound."""
    for number in (1, 2, 3):
        verdicts = await house.judged(number)
        assert verdicts["s3"] == "rejected"
    standings = {
        each.row.participant: each for each in await house.standings.page(after=None, limit=9)
    }
    assert min(standings, key=lambda name: standings[name].row.reputation) == "s3"
    assert {name for name, each in standings.items() if each.quarantine} == {"s3"}
    assert standings["s1"].row.reputation > 0.5
    async with house.making.database.transaction() as connection:
        cursor = await connection.execute(
            "select subject_id from aegis.audit_record where subject_id like 'qua-%'"
        )
        assert len(await cursor.fetchall()) == 1
        # What examiners saw is remembered as they saw it.
        cursor = await connection.execute(
            """
            select count(*), bool_and(features <> '{}' and length(sketch) = 4096),
                   bool_and(looks_like <> '') filter (where participant = 's3')
            from aegis.review_memory
            """
        )
        assert await cursor.fetchone() == (15, True, True)


async def test_second_person_who_agrees_gives_reputation_back(house: House):
    """The first one alone changes nothing."""
    await house.judged(1)
    before = (await house.standing("s3")).reputation
    await house.room.overrides.override("upd-1-s3", Verdict.ACCEPTED, "ours", by("user:admin"))
    assert (await house.standing("s3")).reputation == before
    await house.room.overrides.override("upd-1-s3", Verdict.ACCEPTED, "so it is", by("user:olga"))
    after = await house.standing("s3")
    assert (after.reputation > 0.5, after.accepted, after.rejected) == (True, 1, 0)


async def test_deadline_moves_the_counts_and_no_reputation(house: House):
    """What nobody decided in time is rejected, and says nothing about who sent it."""
    await house.judged(1)
    async with house.making.database.transaction() as connection:
        long_ago = house.making.clock() - timedelta(days=1)
        for table in ("review_update", "review_memory"):
            await connection.execute(
                f"update aegis.{table} set verdict = 'held' where update_id = 'upd-1-s3'"
            )
        await connection.execute(
            """
            update aegis.review_update set hold_until = %s, hold_default = 'rejected'
            where update_id = 'upd-1-s3'
            """,
            (long_ago,),
        )
    assert await house.making.deadline().decide() == 1
    after = await house.standing("s3")
    assert (after.reputation, after.rejected, after.held) == (0.5, 1, 0)
