"""AegisGrid: a strategy's messages over the real way, and what may break on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
from tests.attending import Request, Server, World, refusal_of

from aegis.errors import AlreadyExists, FailedPrecondition
from aegis.local import pki
from aegis.serving.database import Database
from aegis.v1 import training_pb2
from aegis_server.training.aegis_grid import AegisGrid
from aegis_server.training.flower import (
    Array,
    ArrayRecord,
    Message,
    MetricRecord,
    RecordDict,
    content_bytes,
    content_of,
)

End = training_pb2.CollectAnswersResponse
SITES = ("hospital-a", "hospital-b", "hospital-c")


@pytest.fixture
async def world(
    server_tables: str, server_database_url: str, tmp_path: Path
) -> AsyncIterator[World]:
    """A fresh database, certificates, and three enrolled hospitals."""
    pki.ensure(tmp_path / "pki")
    database = Database(server_database_url, application="test")
    await database.open()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(database.close)
        world = World(server_database_url, tmp_path, stack, database)
        await world.enrol(*SITES)
        yield world


def model(floats: int = 25_000) -> RecordDict:
    """A global model of four bytes a float."""
    values = np.arange(floats, dtype=np.float32)
    return RecordDict({"arrays": ArrayRecord({"w": Array(values)})})


def trained(content: bytes) -> bytes:
    """What a site sends for it."""
    record = content_of(content)
    record["metrics"] = MetricRecord({"loss": 0.5})
    return content_bytes(record)


async def _grid(world: World, server: Server, run_id: str, *, attempt: int = 1) -> AegisGrid:
    grid = AegisGrid(
        await world.coordinator(server),
        asyncio.get_running_loop(),
        run_id=run_id,
        attempt=attempt,
        sites=await world.sites(run_id),
        delta=1e-3,
        seconds=30.0,
    )
    grid.begin(1)
    return grid


def _messages(grid: AegisGrid, content: RecordDict | None = None) -> list[Message]:
    record = content or model()
    return [grid.create_message(record, "train", node, "1") for node in grid.get_node_ids()]


async def _obliging(
    world: World, server: Server, *names: str, answer: Callable[[bytes], bytes] = trained
) -> None:
    for name in names:
        site = await (await world.attend(name, server)).welcomed()
        task = asyncio.create_task(site.oblige(answer))
        world.stack.callback(task.cancel)


async def test_a_round_trip_over_the_real_way(world: World) -> None:
    """Content, metadata and facts are what they should be; one content is stored once."""
    server, run_id = await world.server(), await world.run(*SITES)
    grid = await _grid(world, server, run_id)
    await _obliging(world, server, *SITES)
    messages = _messages(grid)
    replies = list(await asyncio.to_thread(grid.send_and_receive, messages=messages, timeout=20.0))
    assert [r.metadata.src_node_id for r in replies] == list(grid.get_node_ids())
    for reply in replies:
        assert reply.content["metrics"]["loss"] == 0.5  # type: ignore[index]
        np.testing.assert_array_equal(
            reply.content["arrays"]["w"].numpy(),  # type: ignore[index, union-attr]
            np.arange(25_000, dtype=np.float32),
        )
        assert reply.metadata.group_id == "1"
    facts = grid.facts
    assert set(facts) == set(grid.get_node_ids())
    assert {f.end for f in facts.values()} == {End.END_ANSWERED}
    assert all(f.bytes_sent > 100_000 and f.bytes_received > f.bytes_sent for f in facts.values())
    assert all(0 < f.seconds < 20 for f in facts.values())
    [(contents,)] = await world.execute(
        "select count(distinct content_sha256) from aegis.training_task"
    )
    assert contents == 1


async def test_enough_answers_and_a_grace(world: World) -> None:
    """The third never answers: it is not waited for, and told so."""
    server, run_id = await world.server(), await world.run(*SITES)
    grid = await _grid(world, server, run_id)
    await _obliging(world, server, "hospital-a", "hospital-c")
    slow = await (await world.attend("hospital-b", server)).welcomed()
    began = time.monotonic()
    gathering = asyncio.create_task(
        asyncio.to_thread(grid.gather, _messages(grid), timeout=30.0, enough=2, grace=0.3)
    )
    task, _ = await slow.task()
    await slow.say(receipt=Request.Receipt(task_id=task.task_id))
    nodes = list(grid.get_node_ids())
    assert [r.metadata.src_node_id for r in await gathering] == [nodes[0], nodes[2]]
    assert time.monotonic() - began < 15
    assert grid.facts[nodes[1]].end == End.END_CANCELLED
    assert (await slow.hear()).cancel.task_id == task.task_id


async def test_failures_are_replies_and_absence_is_none(world: World) -> None:
    """One fails, one sends what is no content, one is not there."""
    server, run_id = await world.server(), await world.run(*SITES)
    grid = await _grid(world, server, run_id)
    failing = await (await world.attend("hospital-a", server)).welcomed()
    await _obliging(world, server, "hospital-b", answer=lambda content: b"\xff\xff no content")
    gathering = asyncio.create_task(
        asyncio.to_thread(grid.gather, _messages(grid), timeout=2.0, enough=3, grace=0.3)
    )
    task, _ = await failing.task()
    await failing.answer(task, b"", error="RuntimeError", sha256=b"")
    first, second = await gathering
    assert (first.has_error(), first.error.reason) == (True, "RuntimeError")
    assert (second.has_error(), second.error.reason) == (True, "UPDATE_FORMAT_INVALID")
    ends = [grid.facts[node].end for node in grid.get_node_ids()]
    assert ends[:2] == [End.END_FAILED, End.END_ANSWERED]
    assert ends[2] in (End.END_MISSED, End.END_CANCELLED)  # whose clock is a moment ahead


async def test_a_later_coordinator_is_given_what_is_there(world: World) -> None:
    """Two had answered when the first coordinator died; only the third is still to come."""
    server, run_id = await world.server(), await world.run(*SITES)
    first = await _grid(world, server, run_id)
    await _obliging(world, server, "hospital-a", "hospital-b")
    ids = await asyncio.to_thread(first.push_messages, _messages(first))
    async with asyncio.timeout(10):
        while len(first.facts) < 2:
            await asyncio.sleep(0.02)
    await world.execute("update aegis.run set attempt = 2 where run_id = %s", run_id)
    second = await _grid(world, server, run_id, attempt=2)
    gathering = asyncio.create_task(
        asyncio.to_thread(second.gather, _messages(second), timeout=20.0, enough=3, grace=1.0)
    )
    third = await (await world.attend("hospital-c", server)).welcomed()
    task, content = await third.task()
    await third.answer(task, trained(content))
    assert len(await gathering) == 3
    assert task.task_id in list(ids)
    [(tasks,)] = await world.execute("select count(*) from aegis.training_task")
    assert tasks == 3


async def test_a_replaced_coordinator_is_told_so(world: World) -> None:
    """While it waits: it gets no answers any more."""
    server, run_id = await world.server(), await world.run(*SITES)
    grid = await _grid(world, server, run_id)
    gathering = asyncio.create_task(
        asyncio.to_thread(grid.gather, _messages(grid), timeout=20.0, enough=3, grace=1.0)
    )
    await asyncio.sleep(0.5)
    await world.execute("update aegis.run set attempt = 2 where run_id = %s", run_id)
    assert isinstance(await refusal_of(gathering), FailedPrecondition)


async def test_another_content_in_the_same_try_is_refused(world: World) -> None:
    """The error of the server is raised where the messages were sent."""
    server, run_id = await world.server(), await world.run(*SITES)
    grid = await _grid(world, server, run_id)
    await asyncio.to_thread(grid.push_messages, _messages(grid))
    sending = asyncio.to_thread(grid.push_messages, _messages(grid, model(7)))
    assert isinstance(await refusal_of(sending), AlreadyExists)


async def test_a_server_that_comes_back_finds_the_round_going_on(world: World) -> None:
    """It goes in the middle of a round: one has answered, one comes again, both count."""
    server, run_id = await world.server(), await world.run("hospital-a", "hospital-b")
    grid = await _grid(world, server, run_id)
    await _obliging(world, server, "hospital-a")
    working = await (await world.attend("hospital-b", server)).welcomed()
    gathering = asyncio.create_task(
        asyncio.to_thread(grid.gather, _messages(grid), timeout=60.0, enough=2, grace=1.0)
    )
    task, content = await working.task()
    await working.say(receipt=Request.Receipt(task_id=task.task_id))
    async with asyncio.timeout(10):
        while not grid.facts:
            await asyncio.sleep(0.02)
    address = server.address
    await server.close(0.0)
    await asyncio.sleep(0.5)
    assert not gathering.done()
    again = await world.server(address=address)
    returned = await (await world.attend("hospital-b", again)).welcomed()
    offered, same = await returned.task()
    assert (offered.task_id, offered.nonce, same) == (task.task_id, task.nonce, content)
    await returned.answer(offered, trained(content))
    assert len(await gathering) == 2


async def test_a_hundred_kilobytes_to_five_sites_take_a_moment(world: World) -> None:
    """A round trip is bounded by the work, not by polls: those come every 5 s here."""
    more = ("hospital-d", "hospital-e")
    await world.enrol(*more)
    server, run_id = await world.server(), await world.run(*SITES, *more)
    grid = await _grid(world, server, run_id)
    await _obliging(world, server, *SITES, *more)
    took = []
    for repeat in range(5):
        grid.begin(1, repeat=repeat)
        began = time.monotonic()
        replies = await asyncio.to_thread(
            grid.gather, _messages(grid), timeout=30.0, enough=5, grace=1.0
        )
        took.append(time.monotonic() - began)
        assert len(replies) == 5
    print("seconds a round trip:", [f"{seconds:.3f}" for seconds in took])  # noqa: T201
    assert min(took) < 3.0
