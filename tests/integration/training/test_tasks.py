"""A task's way from its coordinator to a site and back, and everything that may happen on it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tests.attending import (
    OWN_APP,
    Request,
    Response,
    Site,
    World,
    collect,
    dispatch,
    now,
    refusal_of,
)

from aegis.errors import PermissionDenied, ResourceExhausted
from aegis.local import pki
from aegis.serving.database import Database
from aegis.v1 import training_pb2, training_pb2_grpc
from aegis_learning.datasets import load
from aegis_server.training.attendance.stream import Pace
from aegis_server.training.tasks.answers import Answers

End = training_pb2.CollectAnswersResponse


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
        await world.enrol("hospital-a", "hospital-b", "hospital-c")
        yield world


class Case(NamedTuple):
    """A site with a task in hand, and its coordinator."""

    site: Site
    task: Response.Task
    run_id: str
    ids: list[str]
    stub: training_pb2_grpc.CoordinatorServiceStub


async def _at_work(world: World, **terms: object) -> Case:
    server = await world.server()
    stub = await world.coordinator(server)
    run_id = await world.run("hospital-a")
    site = await (await world.attend("hospital-a", server)).welcomed()
    ids = await dispatch(stub, run_id, ["hospital-a"], **terms)
    task, _ = await site.task()
    return Case(site, task, run_id, ids, stub)


async def test_a_task_goes_down_and_its_answer_comes_up(world: World) -> None:
    """What the site is told is the run's, and what it says comes back unchanged."""
    server = await world.server()
    stub, run_id = await world.coordinator(server), await world.run("hospital-a", "hospital-b")
    site = await world.attend("hospital-a", server)
    assert (await site.hear()).welcome.node_id == (await world.sites(run_id))[0].node_id
    ids = await dispatch(stub, run_id, ["hospital-a"])
    task, content = await site.task()
    assert content == b"content"
    assert (task.run_id, task.round, task.message_type, task.dataset) == (
        run_id, 1, "train", "breast-cancer",
    )  # fmt: skip
    assert task.mechanism.steps == 4
    assert (task.app, task.app_sha256) == (OWN_APP.name, OWN_APP.sha256)
    assert task.schema_sha256 == load("breast-cancer").schema.sha256
    assert 25 < task.time_left.ToTimedelta().total_seconds() <= 30
    await site.say(receipt=Request.Receipt(task_id=task.task_id))
    await site.answer(task, b"answer", steps=3)
    assert (await site.hear()).accepted.task_id == task.task_id == ids[0]
    collected, answer = (await collect(stub, run_id, ids))["hospital-a"]
    assert (collected.end, collected.steps, answer) == (End.END_ANSWERED, 4, b"answer")


async def test_twenty_megabytes_go_both_ways(world: World) -> None:
    """In chunks of at most 256 KiB, which `Site.task` checks."""
    server = await world.server()
    stub, run_id = await world.coordinator(server), await world.run("hospital-a")
    site = await (await world.attend("hospital-a", server)).welcomed()
    large = os.urandom(20_000_000)
    obliging = asyncio.create_task(site.oblige(lambda content: content[::-1]))
    ids = await dispatch(stub, run_id, ["hospital-a"], large)
    _, answer = (await collect(stub, run_id, ids))["hospital-a"]
    obliging.cancel()
    assert answer == large[::-1]
    assert server.streams.memory.taken == 0


async def test_who_comes_later_gets_what_is_open(world: World) -> None:
    """Nobody is there when the task is made."""
    server = await world.server()
    stub, run_id = await world.coordinator(server), await world.run("hospital-a")
    ids = await dispatch(stub, run_id, ["hospital-a"])
    site = await (await world.attend("hospital-a", server)).welcomed()
    task, _ = await site.task()
    assert [task.task_id] == ids


async def test_the_same_answer_again_is_accepted_again(world: World) -> None:
    """A site that did not hear "accepted" sends it once more, on the next stream."""
    case = await _at_work(world)
    for _ in range(2):
        await case.site.answer(case.task, b"answer")
        assert (await case.site.hear()).HasField("accepted")
    assert (await collect(case.stub, case.run_id, case.ids))["hospital-a"][1] == b"answer"


async def test_another_answer_to_the_same_task_is_refused(world: World) -> None:
    """The first one counts."""
    case = await _at_work(world)
    await case.site.answer(case.task, b"answer")
    assert (await case.site.hear()).HasField("accepted")
    await case.site.answer(case.task, b"better")
    assert (await case.site.hear()).rejected.reason == "ANSWER_REPEATED"
    assert (await collect(case.stub, case.run_id, case.ids))["hospital-a"][1] == b"answer"


async def test_another_nonce_is_refused_and_the_task_stays_open(world: World) -> None:
    """It may be meant for something else."""
    case = await _at_work(world)
    await case.site.answer(case.task, b"answer", nonce=bytes(16))
    assert (await case.site.hear()).rejected.reason == "FIELD_INVALID"
    await case.site.answer(case.task, b"answer")
    assert (await case.site.hear()).HasField("accepted")


async def test_somebody_elses_task_is_unknown(world: World) -> None:
    """Even to who knows its nonce."""
    case = await _at_work(world)
    server = await world.server()
    other = await (await world.attend("hospital-b", server)).welcomed()
    await other.answer(case.task, b"answer")
    assert (await other.hear()).rejected.reason == "RESOURCE_NOT_FOUND"
    await other.say(receipt=Request.Receipt(task_id=case.task.task_id))
    assert (await other.hear()).rejected.reason == "RESOURCE_NOT_FOUND"


async def test_an_answer_that_is_not_what_it_said_fails_its_sender(world: World) -> None:
    """The coordinator hears at once."""
    case = await _at_work(world)
    await case.site.answer(case.task, b"answer", sha256=hashlib.sha256(b"other").digest())
    assert (await case.site.hear()).rejected.reason == "DIGEST_MISMATCH"
    collected, answer = (await collect(case.stub, case.run_id, case.ids))["hospital-a"]
    assert (collected.end, collected.reason, answer) == (End.END_FAILED, "DIGEST_MISMATCH", b"")
    assert collected.steps == 4


async def test_two_gigabytes_are_refused_when_they_are_announced(world: World) -> None:
    """Nothing is held for them, and the stream goes on."""
    case = await _at_work(world)
    await case.site.answer(case.task, b"some of it", size_bytes=2 * 1024**3)
    assert (await case.site.hear()).rejected.reason == "REQUEST_TOO_LARGE"
    collected, _ = (await collect(case.stub, case.run_id, case.ids))["hospital-a"]
    assert (collected.end, collected.reason) == (End.END_FAILED, "REQUEST_TOO_LARGE")
    await case.site.say(heartbeat=Request.Heartbeat(number=7))
    assert (await case.site.hear()).echo.number == 7


async def test_a_late_answer_does_not_count(world: World) -> None:
    """It was missed, it is spent, and the site is told to stop."""
    case = await _at_work(world, time_left=Duration(nanos=300_000_000))
    await case.site.say(receipt=Request.Receipt(task_id=case.task.task_id))
    collected, _ = (await collect(case.stub, case.run_id, case.ids))["hospital-a"]
    assert (collected.end, collected.steps) == (End.END_MISSED, 4)
    assert (await case.site.hear()).cancel.task_id == case.task.task_id
    await case.site.answer(case.task, b"answer")
    assert (await case.site.hear()).rejected.reason == "TASK_CLOSED"


async def test_an_answer_for_a_finished_round_does_not_count(world: World) -> None:
    """Even when nobody has closed its task yet."""
    case = await _at_work(world)
    await world.complete(case.run_id, 1)
    await case.site.answer(case.task, b"answer")
    assert (await case.site.hear()).rejected.reason == "TASK_CLOSED"


async def test_closing_a_round_stops_its_sites(world: World) -> None:
    """What never arrived has cost nothing; what was received is spent whole."""
    case = await _at_work(world)
    ids = [*case.ids, *await dispatch(case.stub, case.run_id, ["hospital-a"], repeat=1)]
    again, _ = await case.site.task()
    await case.site.say(receipt=Request.Receipt(task_id=again.task_id))
    await case.site.say(heartbeat=Request.Heartbeat(number=1))
    assert (await case.site.hear()).HasField("echo")
    closed = await case.stub.CloseTasks(
        training_pb2.CloseTasksRequest(run_id=case.run_id, attempt=1, round=1)
    )
    assert closed.closed == 2
    cancelled = {(await case.site.hear()).cancel.task_id for _ in range(2)}
    assert cancelled == set(ids)
    rows = await world.execute("select task_id, ended, steps_spent from aegis.training_task")
    assert sorted(rows) == sorted([(ids[0], 5, 0), (ids[1], 5, 4)])


async def test_a_site_that_fails_says_so(world: World) -> None:
    """The kind of the error and no more, whatever it sends for one."""
    case = await _at_work(world)
    error = "RuntimeError: patient 4711\nis ill"
    await case.site.answer(case.task, b"", error=error, sha256=b"")
    assert (await case.site.hear()).HasField("accepted")
    collected, _ = (await collect(case.stub, case.run_id, case.ids))["hospital-a"]
    assert (collected.end, collected.reason) == (End.END_FAILED, "RuntimeError")
    assert collected.steps == 4


async def test_a_site_that_refuses_has_spent_nothing(world: World) -> None:
    """It refuses before it says that it works on the task."""
    case = await _at_work(world)
    refusal = Request.Refusal(
        task_id=case.task.task_id, reason="PRIVACY_BUDGET_EXHAUSTED", message="mine is 2"
    )
    await case.site.say(refusal=refusal)
    assert (await case.site.hear()).HasField("accepted")
    collected, _ = (await collect(case.stub, case.run_id, case.ids))["hospital-a"]
    assert (collected.end, collected.steps) == (End.END_REFUSED, 0)
    assert collected.reason == "PRIVACY_BUDGET_EXHAUSTED: mine is 2"


async def test_a_refusal_behind_the_receipt_is_spent(world: World) -> None:
    """A site that shuts down hands back what it works on; what is told of it is one line."""
    case = await _at_work(world)
    await case.site.say(receipt=Request.Receipt(task_id=case.task.task_id))
    refusal = Request.Refusal(
        task_id=case.task.task_id, reason="STATE_CONFLICT", message="shutting\0\u202e down"
    )
    await case.site.say(refusal=refusal)
    assert (await case.site.hear()).HasField("accepted")
    collected, _ = (await collect(case.stub, case.run_id, case.ids))["hospital-a"]
    assert (collected.end, collected.steps) == (End.END_REFUSED, 4)
    assert collected.reason == "STATE_CONFLICT: shutting down"


@pytest.mark.parametrize("says", ["a receipt", "an answer"])
async def test_what_arrived_is_spent_though_the_task_was_closed_meanwhile(
    world: World, says: str
) -> None:
    """Its receipt was on its way, or its update."""
    case = await _at_work(world)
    await case.stub.CloseTasks(
        training_pb2.CloseTasksRequest(run_id=case.run_id, attempt=1, round=1)
    )
    assert (await case.site.hear()).HasField("cancel")
    if says == "a receipt":
        await case.site.say(receipt=Request.Receipt(task_id=case.task.task_id))
    else:
        await case.site.answer(case.task, b"answer")
    assert (await case.site.hear()).rejected.reason == "TASK_CLOSED"
    rows = await world.execute("select ended, steps_spent from aegis.training_task")
    assert rows == [(End.END_CANCELLED, 4)]


@pytest.mark.parametrize("claimed", [0, 3, 4000])
async def test_steps_are_those_asked_for_whatever_an_answer_claims(
    world: World, claimed: int
) -> None:
    """The task has four."""
    case = await _at_work(world)
    await case.site.answer(case.task, b"answer", steps=claimed)
    assert (await case.site.hear()).HasField("accepted")
    assert (await collect(case.stub, case.run_id, case.ids))["hospital-a"][0].steps == 4


async def test_the_newest_stream_counts(world: World) -> None:
    """The older one ends, at whichever server it is; the task is offered on the newer."""
    first, second = await world.server(), await world.server()
    stub, run_id = await world.coordinator(first), await world.run("hospital-a")
    older = await (await world.attend("hospital-a", first)).welcomed()
    ids = await dispatch(stub, run_id, ["hospital-a"])
    assert (await older.task())[0].task_id == ids[0]
    newer = await (await world.attend("hospital-a", second)).welcomed()
    assert (await refusal_of(older.hear())).reason == "STATE_CONFLICT"
    assert (await newer.task())[0].task_id == ids[0]


async def test_silence_ends_a_stream(world: World) -> None:
    """Three heartbeats of it; who beats stays."""
    server = await world.server(pace=Pace(heartbeat=0.5))
    silent = await (await world.attend("hospital-a", server)).welcomed()
    beating = await (await world.attend("hospital-b", server)).welcomed()

    async def beat() -> None:
        for number in range(10):
            await beating.say(heartbeat=Request.Heartbeat(number=number))
            assert (await beating.hear()).echo.number == number
            await asyncio.sleep(0.2)

    error, _ = await asyncio.gather(refusal_of(silent.hear()), beat())
    assert error.reason == "PEER_SILENT"
    [(stream,)] = await world.execute(
        "select stream_id from aegis.attendance where participant = 'hospital-a'"
    )
    assert stream == ""


async def test_who_is_revoked_is_put_out(world: World) -> None:
    """By whoever does it, and wherever: the stream ends, and so do its tasks."""
    case = await _at_work(world)
    await case.site.say(receipt=Request.Receipt(task_id=case.task.task_id))
    await case.site.say(heartbeat=Request.Heartbeat(number=1))
    assert (await case.site.hear()).HasField("echo")
    await world.execute(
        "with revoked as (update aegis.participant set state = 3 where name = 'hospital-a')"
        " select pg_notify('aegis_tasks', 'participant:hospital-a')"
    )
    assert (await refusal_of(case.site.hear())).reason == "PARTICIPANT_REVOKED"
    collected, _ = (await collect(case.stub, case.run_id, case.ids))["hospital-a"]
    assert (collected.end, collected.steps) == (End.END_CANCELLED, 4)


async def test_a_leash_ends_a_stream(world: World) -> None:
    """As the doors do it when a certificate is revoked."""
    server = await world.server()
    site = await (await world.attend("hospital-a", server)).welcomed()
    error = PermissionDenied("PARTICIPANT_REVOKED", "was revoked", participant="hospital-a")
    assert server.doors.leashes.expel(lambda caller: error) == 1
    assert (await refusal_of(site.hear())).reason == "PARTICIPANT_REVOKED"


async def test_who_is_not_enrolled_receives_nothing(world: World) -> None:
    """Invited is not enrolled, and nobody is a participant by their certificate alone."""
    server = await world.server()
    await world.execute("update aegis.participant set state = 1 where name = 'hospital-a'")
    site = await world.attend("hospital-a", server)
    assert (await refusal_of(site.hear())).reason == "PARTICIPANT_UNKNOWN"
    await world.execute("delete from aegis.participant where name = 'hospital-b'")
    site = await world.attend("hospital-b", server)
    assert (await refusal_of(site.hear())).reason == "PARTICIPANT_UNKNOWN"


async def test_a_hello_comes_once_and_first_and_speaks_our_protocol(world: World) -> None:
    """Three streams that begin otherwise."""
    server = await world.server()
    twice = await (await world.attend("hospital-a", server)).welcomed()
    await twice.say(hello=Request.Hello(protocol=1))
    ahead = await world.attend("hospital-b", server, protocol=2)
    rude = await world.attend("hospital-c", server, hello=False)
    await rude.say(heartbeat=Request.Heartbeat(number=1))
    for site in (twice, ahead, rude):
        assert (await refusal_of(site.hear())).reason == "FIELD_INVALID"


async def test_tasks_are_made_once(world: World) -> None:
    """Whoever dispatches them again gets the ids that are there, in his own order."""
    server = await world.server()
    stub = await world.coordinator(server)
    run_id = await world.run("hospital-a", "hospital-b")
    ids = await dispatch(stub, run_id, ["hospital-a", "hospital-b"])
    assert await dispatch(stub, run_id, ["hospital-b", "hospital-a"]) == ids[::-1]
    assert await dispatch(stub, run_id, ["hospital-a"], repeat=1) != ids[:1]


async def test_what_is_not_dispatched(world: World) -> None:
    """Another content, round or coordinator; strangers; too much; something else than it says."""
    server = await world.server()
    stub, run_id = await world.coordinator(server), await world.run("hospital-a", attempt=2)
    await dispatch(stub, run_id, ["hospital-a"], attempt=2)
    for reason, changes in [
        ("REQUEST_ID_REUSED", {"content": b"another"}),
        ("STATE_CONFLICT", {"attempt": 1}),
        ("STATE_CONFLICT", {"round": 2}),
        ("FIELD_INVALID", {"participants": ["hospital-b"]}),
        ("FIELD_INVALID", {"time_left": Duration()}),
        ("REQUEST_TOO_LARGE", {"content_size_bytes": 2 * 1024**3}),
        ("REQUEST_TOO_LARGE", {"answer_bytes_max": 2 * 1024**3}),
        ("DIGEST_MISMATCH", {"content_sha256": bytes(32)}),
        ("DIGEST_MISMATCH", {"content_size_bytes": 8}),
        ("RESOURCE_NOT_FOUND", {"run_id": "run-none"}),
    ]:
        terms = {"run_id": run_id, "participants": ["hospital-a"], "attempt": 2, **changes}
        assert (await refusal_of(dispatch(stub, **terms))).reason == reason, changes
    assert (await refusal_of(collect(stub, run_id, ["task-none"], attempt=2))).reason == (
        "RESOURCE_NOT_FOUND"
    )
    assert (await refusal_of(collect(stub, run_id, ["task-none"]))).reason == "STATE_CONFLICT"


async def test_what_was_revoked_meanwhile_is_cancelled(world: World) -> None:
    """A run keeps its sites, and one of them may be gone."""
    server = await world.server()
    stub, run_id = await world.coordinator(server), await world.run("hospital-a")
    await world.execute("update aegis.participant set state = 3 where name = 'hospital-a'")
    ids = await dispatch(stub, run_id, ["hospital-a"])
    assert (await collect(stub, run_id, ids))["hospital-a"][0].end == End.END_CANCELLED


async def test_a_coordinator_that_follows_finds_the_answers(world: World) -> None:
    """The first one is gone; nobody is asked twice."""
    case = await _at_work(world)
    await case.site.answer(case.task, b"answer")
    assert (await case.site.hear()).HasField("accepted")
    await world.execute("update aegis.run set attempt = 2 where run_id = %s", case.run_id)
    again = await dispatch(case.stub, case.run_id, ["hospital-a"], attempt=2)
    assert again == case.ids
    assert (await collect(case.stub, case.run_id, again, attempt=2))["hospital-a"][1] == b"answer"
    await case.site.say(heartbeat=Request.Heartbeat(number=1))
    assert (await case.site.hear()).HasField("echo")  # and no case.task before it


async def test_a_lost_answer_is_its_senders_failure_and_nobody_elses(world: World) -> None:
    """Its blob is gone from the disk."""
    case = await _at_work(world)
    await case.site.answer(case.task, b"answer")
    assert (await case.site.hear()).HasField("accepted")
    name = hashlib.sha256(b"answer").hexdigest()
    [file] = [path for path in (world.folder / "blobs").rglob("*") if path.name.startswith(name)]
    file.unlink()
    collected, answer = (await collect(case.stub, case.run_id, case.ids))["hospital-a"]
    assert (collected.end, collected.reason) == (End.END_FAILED, "DATA_DAMAGED")
    assert (collected.steps, answer) == (4, b"")


async def test_two_servers_relay_for_each_other(world: World) -> None:
    """The coordinator is at one, the site at the other, and neither polls in time to help."""
    first, second = await world.server(), await world.server()
    stub, run_id = await world.coordinator(first), await world.run("hospital-a")
    site = await (await world.attend("hospital-a", second)).welcomed()
    began = asyncio.get_running_loop().time()
    ids = await dispatch(stub, run_id, ["hospital-a"])
    task, _ = await site.task()
    collecting = asyncio.create_task(collect(stub, run_id, ids))
    await asyncio.sleep(0.05)
    await site.answer(task, b"answer")
    assert (await collecting)["hospital-a"][1] == b"answer"
    assert asyncio.get_running_loop().time() - began < 3.0


async def test_a_lost_notification_costs_a_poll(world: World) -> None:
    """These servers hear nothing at all."""
    first = await world.server(pace=Pace(poll=0.3), listens=False)
    stub, run_id = await world.coordinator(first), await world.run("hospital-a")
    site = await (await world.attend("hospital-a", first)).welcomed()
    await asyncio.sleep(0.1)
    ids = await dispatch(stub, run_id, ["hospital-a"])
    task, _ = await site.task()
    await site.answer(task, b"answer")
    assert (await collect(stub, run_id, ids))["hospital-a"][1] == b"answer"


async def test_a_server_that_stops_sends_its_sites_away(world: World) -> None:
    """At once, and the next server has the same task for them."""
    case = await _at_work(world)
    other = await world.server()
    world.servers[0].news.close()
    assert (await refusal_of(case.site.hear())).reason == "SERVER_DRAINING"
    again = await (await world.attend("hospital-a", other)).welcomed()
    assert (await again.task())[0].task_id == case.task.task_id


async def test_answers_share_a_bounded_memory(world: World) -> None:
    """There is room for one: the second site waits until the first is done."""
    server = await world.server(memory=1_000_000)
    stub, run_id = await world.coordinator(server), await world.run("hospital-a", "hospital-b")
    ids = await dispatch(stub, run_id, ["hospital-a", "hospital-b"])
    first = await (await world.attend("hospital-a", server)).welcomed()
    second = await (await world.attend("hospital-b", server)).welcomed()
    (one, _), (two, _) = await first.task(), await second.task()
    data = os.urandom(900_000)
    half = Request.Answer(
        task_id=one.task_id, nonce=one.nonce, sha256=hashlib.sha256(data).digest(),
        size_bytes=len(data),
    )  # fmt: skip
    await first.say(answer=half)
    await first.say(heartbeat=Request.Heartbeat(number=1))
    assert (await first.hear()).HasField("echo")
    waiting = asyncio.create_task(second.answer(two, data))
    await asyncio.sleep(0.3)
    assert server.streams.memory.taken == len(data)
    await first.answer(one, data)
    assert (await first.hear()).HasField("accepted")
    await waiting
    assert (await second.hear()).HasField("accepted")
    assert len(await collect(stub, run_id, ids)) == 2
    assert server.streams.memory.taken == 0


async def test_who_announces_and_brings_nothing_keeps_nobody_out(world: World) -> None:
    """It has the only room and is alive; as soon as somebody wants it, it has to go."""
    server = await world.server(memory=1_000_000, pace=Pace(heartbeat=0.2, poll=5.0))
    stub, run_id = await world.coordinator(server), await world.run("hospital-a", "hospital-b")
    ids = await dispatch(stub, run_id, ["hospital-a", "hospital-b"])
    idle = await (await world.attend("hospital-a", server)).welcomed()
    task, _ = await idle.task()
    await idle.say(
        answer=Request.Answer(
            task_id=task.task_id, nonce=task.nonce, sha256=bytes(32), size_bytes=1_000_000
        )
    )

    async def linger() -> Response:
        while True:
            await idle.say(heartbeat=Request.Heartbeat(number=1))
            assert (await idle.hear()).HasField("echo")
            await asyncio.sleep(0.1)

    lingering = asyncio.create_task(refusal_of(linger()))
    await asyncio.sleep(0.7)
    assert not lingering.done()
    for _ in range(20):
        other = await (await world.attend("hospital-b", server)).welcomed()
        mine, _ = await other.task()
        await other.answer(mine, b"answer")
        with suppress(ResourceExhausted):
            assert (await other.hear()).HasField("accepted")
            break
    assert (await lingering).reason == "RATE_LIMITED"
    assert list(await collect(stub, run_id, ids[1:])) == ["hospital-b"]
    assert server.streams.memory.taken == 0


async def test_a_broken_stream_gives_its_memory_back(world: World) -> None:
    """Half an answer had come."""
    case = await _at_work(world)
    await case.site.say(
        answer=Request.Answer(
            task_id=case.task.task_id, nonce=case.task.nonce, sha256=bytes(32), size_bytes=1_000_000
        )
    )
    await case.site.say(heartbeat=Request.Heartbeat(number=1))
    assert (await case.site.hear()).HasField("echo")
    memory = world.servers[0].streams.memory
    assert memory.taken == 1_000_000
    case.site.call.cancel()
    async with asyncio.timeout(5):
        while memory.taken:
            await asyncio.sleep(0.02)


async def test_the_site_is_seen_and_its_clock_is_compared(world: World) -> None:
    """An hour fast, which changes nothing."""
    server = await world.server()
    site = await (await world.attend("hospital-a", server, software="ours 2")).welcomed()
    heartbeat = Request.Heartbeat(number=1)
    heartbeat.clock.GetCurrentTime()
    heartbeat.clock.FromDatetime(heartbeat.clock.ToDatetime() + timedelta(hours=1))
    await site.say(heartbeat=heartbeat)
    assert (await site.hear()).HasField("echo")
    [(offset, software)] = await world.execute(
        "select clock_offset_seconds, software from aegis.attendance"
        " join aegis.participant on name = participant"
    )
    assert 3590 < offset < 3610
    assert software == "ours 2"


async def test_no_heartbeat_can_fill_the_database_or_show_an_impossible_time(world: World) -> None:
    """A hundred at once are written down once; software is one line."""
    server = await world.server()
    site = await (await world.attend("hospital-a", server, software="ours\n2\0")).welcomed()
    for number in range(100):
        await site.say(heartbeat=Request.Heartbeat(number=number, clock=Timestamp(seconds=number)))
        assert (await site.hear()).echo.number == number
    [(software, updates)] = await world.execute(
        "select software, seen_at - since < interval '1 second' from aegis.attendance"
        " join aegis.participant on name = participant"
    )
    assert (software, updates) == ("ours 2", True)
    await site.say(heartbeat=Request.Heartbeat(clock=Timestamp(seconds=2**60)))
    assert (await refusal_of(site.hear())).reason == "FIELD_INVALID"


async def test_who_is_revoked_answers_nothing_any_more(world: World) -> None:
    """Also in the moment before its stream and its tasks are ended."""
    case = await _at_work(world)
    server = world.servers[0]
    await world.execute("update aegis.participant set state = 3 where name = 'hospital-a'")
    announced = Request.Answer(
        task_id=case.task.task_id,
        nonce=case.task.nonce,
        sha256=hashlib.sha256(b"answer").digest(),
        size_bytes=6,
    )
    answers = Answers(server.database, server.blobs, clock=now)
    refused = await refusal_of(answers.take("hospital-a", announced, b"answer"))
    assert refused.reason == "TASK_CLOSED"


async def test_a_content_under_way_stops_for_who_is_revoked(world: World) -> None:
    """Even when nobody told this server: it looks between chunks."""
    server = await world.server(pace=Pace(poll=0.2), listens=False)
    stub, run_id = await world.coordinator(server), await world.run("hospital-a")
    ids = await dispatch(stub, run_id, ["hospital-a"], bytes(32_000_000))
    site = await (await world.attend("hospital-a", server)).welcomed()
    assert (await site.hear()).task.task_id == ids[0]
    await world.execute("update aegis.participant set state = 3 where name = 'hospital-a'")
    received = 0

    async def read_on() -> None:
        nonlocal received
        while True:
            await asyncio.sleep(0.05)
            received += len((await site.hear()).chunk.data)

    assert (await refusal_of(read_on())).reason == "PARTICIPANT_REVOKED"
    assert received < 16_000_000


async def test_a_site_that_does_not_read_holds_a_few_chunks(world: World) -> None:
    """It beats on, so it is not silent; what it finds when it reads is the end."""
    server = await world.server(pace=Pace(heartbeat=1.0))
    stub, run_id = await world.coordinator(server), await world.run("hospital-a")
    await dispatch(stub, run_id, ["hospital-a"], bytes(32_000_000))
    site = await (await world.attend("hospital-a", server)).welcomed()
    for number in range(25):
        await site.say(heartbeat=Request.Heartbeat(number=number))
        await asyncio.sleep(0.2)

    async def read_on() -> None:
        while True:
            await site.hear()

    assert (await refusal_of(read_on())).reason == "PEER_SILENT"


async def test_streams_outlast_the_database(world: World, database_url: str) -> None:
    """They wait for it; only an answer that cannot be stored ends one, to be brought again."""
    server = await world.server(pace=Pace(poll=0.1))
    stub, run_id = await world.coordinator(server), await world.run("hospital-a", "hospital-b")
    waiting = await (await world.attend("hospital-a", server)).welcomed()
    working = await (await world.attend("hospital-b", server)).welcomed()
    [late] = await dispatch(stub, run_id, ["hospital-b"])
    task, _ = await working.task()
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("alter table aegis.training_task rename to taken_away")
        await asyncio.sleep(0.5)
        await working.answer(task, b"answer")
        assert (await refusal_of(working.hear())).reason == "DATABASE_UNAVAILABLE"
        await waiting.say(heartbeat=Request.Heartbeat(number=1))
        assert (await waiting.hear()).echo.number == 1
        owner.execute("alter table aegis.taken_away rename to training_task")
    await dispatch(stub, run_id, ["hospital-a"])
    await waiting.task()
    again = await (await world.attend("hospital-b", server)).welcomed()
    task, _ = await again.task()
    await again.answer(task, b"answer")
    assert (await again.hear()).accepted.task_id == late
