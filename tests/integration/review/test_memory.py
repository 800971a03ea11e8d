"""What the review remembers, on real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from tests.judged import Judged, judge

from aegis.serving.database import Connection, Database
from aegis_server.review import sketches
from aegis_server.review.case import Verdict
from aegis_server.review.memory.store import past_of, recorded
from aegis_server.review.store import RoundKey

SKETCH = sketches.sketch(np.ones(10, np.float32))


@pytest.fixture
async def connection(server_tables: str, server_database_url: str) -> AsyncIterator[Connection]:
    opened = Database(server_database_url, application="test")
    await opened.open()
    async with opened.transaction() as lent:
        yield lent
    await opened.close()


async def test_past_is_what_the_detector_saw_oldest_first(connection: Connection):
    """Features, sketch, score and verdict come back as they were judged."""
    for number, verdict in ((1, Verdict.HELD), (2, Verdict.ACCEPTED)):
        seen = Judged(verdict, number / 10, {"norm_z": float(number)}, SKETCH)
        await judge(connection, RoundKey("run-1", number, 1), {"north": seen})
    (first, second) = (await past_of(connection, "run-1", ["north"], before=3))["north"]
    assert (*(first.round, first.verdict, first.score, first.features, first.sketch),) == (
        1,
        Verdict.HELD,
        0.1,
        {"norm_z": 1.0},
        SKETCH,
    )
    assert (second.round, second.verdict) == (2, Verdict.ACCEPTED)


async def test_past_is_of_this_run_and_these_participants(connection: Connection):
    """Another run's base model and another site's rows say nothing about this one."""
    await judge(connection, RoundKey("run-1", 1, 1), {"north": Judged(), "south": Judged()})
    await judge(connection, RoundKey("run-2", 1, 1), {"north": Judged()})
    found = await past_of(connection, "run-1", ["north", "west"], before=2)
    assert {name: len(past) for name, past in found.items()} == {"north": 1, "west": 0}


async def test_past_of_a_round_tried_twice_is_its_last_try(connection: Connection):
    """Only one try of a round made a model."""
    for attempt in (1, 2):
        judged = {"north": Judged(score=attempt / 10)}
        await judge(connection, RoundKey("run-1", 1, attempt), judged)
    (past,) = (await past_of(connection, "run-1", ["north"], before=2))["north"]
    assert past.score == 0.2


async def test_round_that_is_tried_again_is_not_its_own_past(connection: Connection):
    """A site that sends the same again from the same model repeats itself honestly."""
    await judge(connection, RoundKey("run-1", 1, 1), {"north": Judged()})
    assert await past_of(connection, "run-1", ["north"], before=1) == {"north": ()}


async def test_past_is_at_most_the_last_twenty_rounds(connection: Connection):
    """A run of a thousand rounds costs a review no more than one of twenty."""
    for number in range(1, 24):
        await judge(connection, RoundKey("run-1", number, 1), {"north": Judged()})
    past = (await past_of(connection, "run-1", ["north"], before=24))["north"]
    assert list(range(4, 24)) == [each.round for each in past]


async def test_detectors_learn_from_what_stands_as_accepted(connection: Connection):
    """A person's decision counts for training, whatever the examiners said."""
    ids = await judge(
        connection,
        RoundKey("run-1", 1, 1),
        {
            "north": Judged(features={"norm_z": 1.0}),
            "south": Judged(Verdict.REJECTED),
            "east": Judged(Verdict.HELD, features={"norm_z": 3.0}),
            "west": Judged(),
        },
    )
    for name, verdict in (("east", "accepted"), ("west", "rejected")):
        await connection.execute(
            "update aegis.review_update set verdict = %s where update_id = %s",
            (verdict, ids[name]),
        )
    found = await recorded(connection, "digits")
    assert {each.participant: each.features["norm_z"] for each in found} == {
        "north": 1.0,
        "east": 3.0,
    }
    assert await recorded(connection, "breast-cancer") == []


async def test_number_that_json_has_not_is_left_out(connection: Connection):
    """One examiner's infinity keeps no round from its verdicts."""
    judged = {"north": Judged(features={"norm_z": float("inf"), "cosine": 0.5})}
    await judge(connection, RoundKey("run-1", 1, 1), judged)
    (found,) = await recorded(connection, "digits")
    assert found.features == {"cosine": 0.5}
