"""Rounds on their way: who examines them, who takes over, and that nothing is judged twice."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry
from tests.reviewroom import (
    ACCEPTED,
    CASE,
    HELD,
    KEY,
    REJECTED,
    RUN,
    Room,
    desks,
    room,
    serving,
)

from aegis.errors import AegisError, NotFound, from_rpc_error
from aegis.serving.database import Database
from aegis.v1 import review_pb2
from aegis_learning import parameters
from aegis_learning.datasets import Split
from aegis_server.review import store
from aegis_server.review.case import Case, Ruling
from aegis_server.review.cases import Rooms
from aegis_server.review.desks import Desks
from aegis_server.review.isolation import Examining
from aegis_server.review.judging import Judging
from aegis_server.review.queue import store as queue_store
from aegis_server.review.queue.here import Here
from aegis_server.review.queue.jobs import Jobs, Worker, opened
from aegis_server.review.updates import Base
from aegis_server.review.vetting import vet

__all__ = ["desks", "room"]

Queue = review_pb2.GetReviewQueueResponse


def slow(case: Case, *, begin: Callable[[str], None], without: frozenset[str]) -> Ruling:
    time.sleep(2.0)
    return vet(case, begin=begin, without=without)


async def queue(room: Room) -> review_pb2.GetReviewQueueResponse:
    return await room.stub.GetReviewQueue(review_pb2.GetReviewQueueRequest(), timeout=10)


async def judged_records(room: Room) -> int:
    return sum(record.action == "judge" for record in await room.records())


async def close(room: Room) -> None:
    """Asks for round 1 and goes away before anybody has begun with it."""
    async with room.database.transaction() as connection:
        await store.close_round(
            connection,
            KEY,
            by="service:coordinator",
            policy_revision=1,
            rule_id="coordinator-asks-for-verdicts",
            now=room.making.clock(),
        )


@asynccontextmanager
async def working(url: str, room: Room, judging: Judging) -> AsyncIterator[asyncio.Task[None]]:
    """A worker as `aegis-server review-worker` runs it, with one desk."""
    async with opened(url, listeners=1) as app:
        worker = Worker(app, Jobs(app, room.database), judging, desks=1)
        task = asyncio.create_task(worker.run())
        yield task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def queued(
    database: Database, server_database_url: str, tmp_path: Path, desks: Desks
) -> AsyncIterator[Room]:
    """A room that leaves examining to workers."""
    async with (
        opened(server_database_url) as app,
        serving(
            database, tmp_path, desks, queue=Jobs(app, database), answer_seconds=20.0
        ) as served,
    ):
        yield served


async def test_queue_shows_a_round_from_waiting_to_held(
    database: Database, tmp_path: Path, desks: Desks
):
    """Where it stands, since when, and who has it."""
    async with serving(database, tmp_path, desks, examining=Examining(slow, 60.0)) as room:
        assert list((await queue(room)).entries) == []
        await room.submit(CASE.submissions[0].data)
        await room.submit(CASE.submissions[2].data, "s3")
        assert list((await queue(room)).entries) == []
        async with desks.one():
            reviewing = asyncio.create_task(room.review())
            entry = await state(room, Queue.STATE_WAITING)
            assert (entry.run_id, entry.round, entry.updates, entry.worker) == (RUN, 1, 2, "")
        entry = await state(room, Queue.STATE_EXAMINING)
        assert entry.worker == "test/1"
        held = sum(update.verdict == HELD for update in await reviewing)
        entry = await state(room, Queue.STATE_HELD)
        assert entry.updates == held > 0
        assert (await queue(room)).examiners == 1


async def state(room: Room, wanted: Queue.State.ValueType) -> Queue.Entry:
    for _ in range(200):
        entries = (await queue(room)).entries
        if entries and entries[0].state == wanted:
            return entries[0]
        await asyncio.sleep(0.05)
    raise AssertionError(f"no round is {Queue.State.Name(wanted)}")


async def test_round_that_takes_too_long_is_busy_and_found_later(
    database: Database, tmp_path: Path, desks: Desks
):
    """Nothing is decided when the answer is late, and nothing lost."""
    examining = Examining(slow, 60.0)
    async with serving(database, tmp_path, desks, examining=examining, answer_seconds=0.5) as room:
        await room.submit_round()
        with pytest.raises(AegisError) as busy:
            await room.review()
        assert busy.value.reason == "REVIEW_BUSY"
        assert busy.value.code is grpc.StatusCode.UNAVAILABLE
        await room.deeds.drain()
        assert [u.verdict for u in await room.review()].count(ACCEPTED) == 4
        assert await judged_records(room) == 5


async def test_small_round_does_not_wait_for_a_large_one(database: Database, tmp_path: Path):
    """Two desks, two rounds at the same time."""
    two = Desks(2)
    try:
        async with serving(database, tmp_path, two, examining=Examining(slow, 60.0)) as room:
            for attempt in (1, 2):
                for each in CASE.submissions:
                    await room.submit(each.data, each.update_id, attempt=attempt)
            # Their processes start first.
            await asyncio.gather(room.review(1), room.review(2))
            for each in CASE.submissions:
                await room.submit(each.data, each.update_id, attempt=3)
                await room.submit(each.data, each.update_id, attempt=4)
            both = asyncio.gather(room.review(3), room.review(4))
            for _ in range(200):
                states = [entry.state for entry in (await queue(room)).entries]
                if states.count(Queue.STATE_EXAMINING) == 2:
                    break
                await asyncio.sleep(0.02)
            else:
                raise AssertionError("they were examined one after the other")
            await both
    finally:
        two.close()


async def test_worker_examines_what_a_server_is_asked_for(queued: Room, server_database_url: str):
    """The verdicts, their records and who asked are the same as without a queue."""
    await queued.submit_round()
    async with working(server_database_url, queued, queued.making.judging(worker="far/7")):
        updates = await queued.review()
        assert [u.verdict for u in updates].count(ACCEPTED) == 4
        assert [u.verdict for u in updates].count(REJECTED) == 1
        assert (await queue(queued)).examiners == 1
    (record, *_) = [r for r in await queued.records() if r.action == "judge"]
    assert (record.actor, record.rule_id) == (
        "service:coordinator",
        "coordinator-asks-for-verdicts",
    )
    assert await judged_records(queued) == 5


async def test_without_a_worker_the_review_is_busy(
    database: Database, server_database_url: str, tmp_path: Path, desks: Desks
):
    """Nothing is decided and nothing lost; the round waits in line, where it can be seen."""
    async with (
        opened(server_database_url) as app,
        serving(database, tmp_path, desks, queue=Jobs(app, database), answer_seconds=1.0) as room,
    ):
        await room.submit_round()
        for _ in range(2):
            with pytest.raises(AegisError) as busy:
                await room.review()
            assert busy.value.reason == "REVIEW_BUSY"
        (entry,) = (await queue(room)).entries
        assert entry.state == Queue.STATE_WAITING
        async with working(server_database_url, room, room.making.judging()):
            for _ in range(100):
                if not (await queue(room)).entries:
                    break
                await asyncio.sleep(0.1)
        assert [u.verdict for u in await room.review()].count(ACCEPTED) == 4


async def test_another_worker_takes_over_from_one_that_died(queued: Room, server_database_url: str):
    """A lease nobody renews runs out; the round is then examined by who is alive, once."""
    await queued.submit_round()
    await close(queued)
    async with queued.database.transaction() as connection:
        # What a worker that was killed leaves behind.
        assert await queue_store.claim(connection, KEY, worker="dead/1", seconds=3.0)
    async with working(server_database_url, queued, queued.making.judging(worker="alive/2")):
        (entry,) = (await queue(queued)).entries
        assert (entry.state, entry.worker) == (Queue.STATE_EXAMINING, "dead/1")
        updates = await queued.review()
    assert [u.verdict for u in updates].count(ACCEPTED) == 4
    assert await judged_records(queued) == 5


async def test_verdicts_of_a_worker_that_was_thought_dead_change_nothing(room: Room):
    """It comes back after another has judged: the row lock and the verdicts stand against it."""
    await room.submit_round()
    await close(room)
    late = room.making.judging(worker="late/1", examining=Examining(slow, 60.0))
    examining = asyncio.create_task(late.judge(KEY))
    await state(room, Queue.STATE_EXAMINING)
    async with room.database.transaction() as connection:
        await queue_store.let_go(connection, KEY, worker="late/1")
    other = Desks(1)
    try:
        await room.making.judging(worker="quick/2", desks=other).judge(KEY)
    finally:
        other.close()
    first = await room.review()
    await examining
    assert await room.review() == first
    assert await judged_records(room) == 5


async def test_round_whose_judging_fails_waits_to_be_asked_for_again(room: Room):
    """Its lease is given back at once, not after its time."""
    await room.submit_round()
    room.runs.base, base = None, room.runs.base
    with pytest.raises(AegisError):
        await room.review()
    (entry,) = (await queue(room)).entries
    assert entry.state == Queue.STATE_WAITING
    room.runs.base = base
    began = time.monotonic()
    await room.review()
    assert time.monotonic() - began < 10


async def test_round_whose_server_and_coordinator_are_gone_is_judged_all_the_same(room: Room):
    """Nobody asks for that try again, so a server looks for what waits."""
    await room.submit_round()
    await close(room)
    making = room.making
    here = Here(making.judging(), making.deeds, making.database, desks=1)
    await here.sweep()
    await here.sweep()
    await here.judged(KEY)
    assert await judged_records(room) == 5
    assert not (await queue(room)).entries


async def test_update_whose_bytes_are_lost_is_held_alone(room: Room):
    """Nobody's fault, and no reason to leave the others without verdicts."""
    await room.submit_round()
    sha256 = (await room.list(participant="s2")).updates[0].sha256.hex()
    (room.blobs / sha256[:2] / sha256).unlink()
    updates = {each.participant: each for each in await room.review()}
    assert updates["s2"].verdict == HELD
    assert "bytes are lost" in updates["s2"].findings[0].text
    assert [u.verdict for u in updates.values()].count(ACCEPTED) == 3


async def test_who_sends_back_the_last_step_is_found_by_the_model_before(room: Room):
    """The step is what has changed from that model to the round's base."""
    room.runs.base = replace(known(room), before_sha256=await room.making.blobs.put(earlier("s4")))
    await room.submit_round()
    found = {each.participant: each for each in await room.review()}["s4"]
    assert found.verdict == REJECTED
    assert "repeats the last step of the model" in found.findings[0].text


async def test_model_before_that_is_lost_is_missed_by_nobody_else(room: Room):
    """Without it nobody can be told to repeat; everything else is examined as ever."""
    room.runs.base = replace(known(room), before_sha256=hashlib.sha256(earlier("s4")).digest())
    await room.submit_round()
    updates = {each.participant: each for each in await room.review()}
    assert [u.verdict for u in updates.values()].count(ACCEPTED) == 4
    assert updates["s3"].verdict == REJECTED


def known(room: Room) -> Base:
    assert room.runs.base is not None
    return room.runs.base


def earlier(participant: str) -> bytes:
    """The model whose last step was what this one sends."""
    (update,) = [each.data for each in CASE.submissions if each.update_id == participant]
    shapes = CASE.family.shapes
    base, step = (parameters.decode(data, shapes) for data in (CASE.base, update))
    return parameters.encode(parameters.subtract(base, step))


class StrangeGolden:
    """Golden rows that were made for a data set with more classes."""

    async def active(self, dataset: str) -> tuple[Split, bytes]:
        rows = CASE.golden
        return replace(rows, y=rows.y + 7), b"g" * 32


async def test_golden_rows_with_unseen_labels_accuse_nobody(
    database: Database, tmp_path: Path, desks: Desks
):
    """The round is held, and says which rows are to blame."""
    rooms = Rooms(golden=StrangeGolden())
    async with serving(database, tmp_path, desks, rooms=rooms) as room:
        await room.submit_round()
        updates = await room.review()
        assert {each.verdict for each in updates} == {HELD}
        assert "labels the model does not know" in updates[0].findings[0].text
        assert updates[0].golden_sha256 == b"g" * 32


async def test_queue_is_told_to_prometheus(room: Room):
    """How many rounds wait, and how long examining takes."""
    await room.submit_round()
    await close(room)
    registry = CollectorRegistry()
    room.making.registry = registry
    judging = room.making.judging()
    counting = asyncio.create_task(judging.run())
    for _ in range(100):
        if registry.get_sample_value("aegis_review_queue", {"state": "waiting"}) == 1:
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("nobody counted")
    counting.cancel()
    await asyncio.gather(counting, return_exceptions=True)
    await judging.judge(KEY)
    assert registry.get_sample_value("aegis_review_seconds_count") == 1


async def test_viewer_sees_the_queue_and_a_participant_does_not(room: Room):
    """It tells who else takes part in what."""
    request = review_pb2.GetReviewQueueRequest()
    viewer = [("authorization", "user:vera")]
    await room.stub.GetReviewQueue(request, timeout=10, metadata=viewer)
    with pytest.raises(grpc.RpcError) as refused:
        await room.stub.GetReviewQueue(
            request, timeout=10, metadata=[("authorization", "participant:s1")]
        )
    assert from_rpc_error(refused.value).reason == "POLICY_DENIED"


async def test_unknown_round_is_judged_by_nobody(room: Room):
    """Asking for nothing leaves nothing behind."""
    with pytest.raises(NotFound):
        await room.review(5)
    async with room.database.transaction() as connection:
        assert await store.round_of(connection, replace(KEY, attempt=5)) is None
