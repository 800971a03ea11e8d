"""Two servers, edits, and load in between: nobody hears an answer older than the stated bound."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.integration.policy.rooms import Room

from aegis.errors import Unavailable
from aegis.serving.database import Database
from aegis_server.policy.decisions import Consistency, Question
from aegis_server.policy.following import Following

# docs/policy.md: an edit counts on every server within a second.
BOUND_SECONDS = 1.0
ADMIN_WRITES = "p, user:admin, *, /**, *, , allow, admin\n"
ANN_READS = Question("user:ann", "aegis", "/a", "read")
EDITS = 12


def rules(number: int) -> str:
    """Ann may read by every other revision."""
    return ADMIN_WRITES + (
        "p, user:ann, *, /a, read, , allow, ann-reads\n" if number % 2 == 0 else ""
    )


@pytest.fixture
async def servers(server: Room, database: Database, server_database_url: str):
    """Two servers that hear of edits, as programs do, and look once a second."""
    other = Room(database)
    await other.decisions.open()
    rooms = [server, other]
    running = [
        asyncio.create_task(Following(server_database_url, room.decisions.refresh).run())
        for room in rooms
    ]
    yield rooms
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_no_answer_is_older_than_the_bound(servers: list[Room]):
    """Under load on both servers, every answer is by a revision at most a second behind."""
    committed: list[tuple[float, int]] = [(time.monotonic(), 1)]
    old: list[str] = []
    answers = 0
    done = asyncio.Event()

    async def ask(room: Room) -> None:
        nonlocal answers
        while not done.is_set():
            due = max(n for at, n in committed if at <= time.monotonic() - BOUND_SECONDS or n == 1)
            answer = await room.decisions.decide(ANN_READS)
            answers += 1
            if answer.revision < due:
                old.append(f"revision {answer.revision} when {due} was due")
            if answer.revision > 1 and answer.allowed is not (answer.revision % 2 == 0):
                old.append(f"revision {answer.revision} says {answer.allowed}")
            await asyncio.sleep(0)

    asking = [asyncio.create_task(ask(room)) for room in servers for _ in range(4)]
    for number in range(2, 2 + EDITS):
        assert await servers[number % 2].import_(rules(number)) == number
        committed.append((time.monotonic(), number))
        await asyncio.sleep(0.15)
    await asyncio.sleep(BOUND_SECONDS)
    done.set()
    await asyncio.gather(*asking)
    assert old == []
    assert answers > 1000


async def test_who_shows_the_revision_of_an_edit_never_hears_an_older_answer(servers: list[Room]):
    """Right behind an edit on one server, the other one answers by it, or says that it cannot."""
    refused = 0
    for number in range(2, 2 + EDITS):
        revision = await servers[number % 2].import_(rules(number))
        other = servers[(number + 1) % 2]
        try:
            answer = await other.decisions.decide(
                ANN_READS, consistency=Consistency(at_least=revision)
            )
        except Unavailable:
            refused += 1
            continue
        assert answer.revision >= revision
        assert answer.allowed is (answer.revision % 2 == 0)
    assert refused < EDITS


async def test_mutations_are_decided_by_the_newest_rules_there_are(servers: list[Room]):
    """What must not be decided by old rules asks Postgres first."""
    for number in range(2, 2 + EDITS):
        await servers[number % 2].import_(rules(number))
        answer = await servers[(number + 1) % 2].decisions.decide(ANN_READS, current=True)
        assert (answer.revision, answer.allowed) == (number, number % 2 == 0)
