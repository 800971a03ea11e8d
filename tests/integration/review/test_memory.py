"""What the review remembers, on real Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from tests.judged import NOW, Judged, judge

from aegis.serving.database import Connection, Database
from aegis_server.review import sketches
from aegis_server.review.case import Verdict
from aegis_server.review.holding import store as holding
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


async def test_nothing_is_learnt_from_what_nobody_looked_at(connection: Connection):
    """A deadline that accepts is no judgement; a person who does so afterwards is one."""
    held = Judged(Verdict.HELD, features={"norm_z": 9.0})
    ids = await judge(connection, RoundKey("run-1", 1, 1), {"north": held, "south": held})
    for name in ids:
        await _decided(connection, ids[name], "", "accepted")
    assert await recorded(connection, "digits") == []
    await _decided(connection, ids["south"], "user:olga", "rejected")
    await _decided(connection, ids["south"], "user:otto", "accepted")
    assert [each.participant for each in await recorded(connection, "digits")] == ["south"]


async def test_round_that_was_tried_again_teaches_once(connection: Connection):
    """The last try counts, or four sites would look like a round of eight."""
    for attempt in (1, 2):
        judged = {"north": Judged(features={"norm_z": float(attempt)})}
        await judge(connection, RoundKey("run-1", 1, attempt), judged)
    assert [each.features["norm_z"] for each in await recorded(connection, "digits")] == [2.0]


@pytest.mark.parametrize(("state", "learnt"), [("proposed", 1), ("in_force", 1), ("lifted", 2)])
async def test_nothing_is_learnt_from_suspects(connection: Connection, state: str, learnt: int):
    """Who is, or may be, sent into quarantine does not teach what honest updates look like."""
    ordinary = Judged(features={"norm_z": 1.0})
    await judge(connection, RoundKey("run-1", 1, 1), {"north": ordinary, "south": ordinary})
    await connection.execute(
        """
        insert into aegis.review_quarantine
            (quarantine_id, participant, state, cause, reason, update_ids, proposed_at, decided_at)
        values ('q', 'north', %s, 'reputation', 'why', '{}', now(),
                case when %s = 'proposed' then null else now() end)
        """,
        (state, state),
    )
    assert len(await recorded(connection, "digits")) == learnt


async def _decided(connection: Connection, update_id: str, by: str, verdict: str) -> None:
    await holding.add(
        connection,
        update_id,
        before="held",
        after=verdict,
        by=by,
        reason="why",
        effective=True,
        now=NOW,
    )
    await holding.set_verdict(connection, update_id, verdict)


async def test_number_that_json_has_not_is_left_out(connection: Connection):
    """One examiner's infinity keeps no round from its verdicts."""
    judged = {"north": Judged(features={"norm_z": float("inf"), "cosine": 0.5})}
    await judge(connection, RoundKey("run-1", 1, 1), judged)
    (found,) = await recorded(connection, "digits")
    assert found.features == {"cosine": 0.5}
