"""A coordinator that waits for a person, while somebody wants its run to end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from aegis.errors import FailedPrecondition, from_rpc_error
from aegis.v1 import review_pb2, review_pb2_grpc, training_pb2, training_pb2_grpc
from aegis_learning import parameters
from aegis_learning.models import family
from aegis_server.training import store
from aegis_server.training.calls import Server
from aegis_server.training.gate import ReviewGate
from aegis_server.training.loop import coordinate
from aegis_server.training.rounds import Tried

Plan = Callable[..., training_pb2.RunPlan]
Update = review_pb2.Update
Run = training_pb2.Run
Outcome = training_pb2.ParticipantRound
HELD = Outcome.OUTCOME_HELD
MODEL = family("mlp", 30, 2)


def update(seed: int, factor: float) -> bytes:
    numbers = np.random.default_rng(seed)
    return parameters.encode(
        {
            name: (factor * numbers.normal(size=shape)).astype(np.float32)
            for name, shape in MODEL.shapes.items()
        }
    )


# Neither has peers that would say who the odd one is.
SENT = {"site-1": update(1, 0.01), "site-2": update(2, 50.0)}


async def take_up(room: Any, run_id: str) -> int:
    async with room.database.transaction() as connection:
        attempt = await store.next_attempt(connection, run_id, room.runs._clock())
    await room.progress.assignment(run_id, attempt=attempt, actor="service:coordinator")
    return int(attempt)


async def waiting(room: Any, plan: Plan) -> tuple[str, Server, asyncio.Task[Any]]:
    """A round with a held update, in the middle of waiting an hour for a person."""
    run_id = await room.start(plan(review=True))
    attempt = await take_up(room, run_id)
    model = parameters.encode(MODEL.initial(1))
    await room.progress.complete_round(
        run_id,
        attempt=attempt,
        report=training_pb2.Round(
            round=0, accuracy=0.5, loss=0.7, model_sha256=parameters.digest(model)
        ),
        model=model,
        actor="service:coordinator",
    )
    channel = await room.channel("coordinator")
    server = Server(channel, run_id, attempt)
    gate = ReviewGate(
        review_pb2_grpc.ReviewServiceStub(channel),
        asyncio.get_running_loop(),
        run_id=run_id,
        hold_seconds=3600,
        called_off=server.called_off,
    )
    task = asyncio.create_task(asyncio.to_thread(gate.judge, 1, SENT))
    await held(room, run_id)
    done, _ = await asyncio.wait({task}, timeout=1.5)
    assert not done
    return run_id, server, task


@pytest.mark.parametrize(
    ("method", "request_"),
    [("StopRun", training_pb2.StopRunRequest), ("PauseRun", training_pb2.PauseRunRequest)],
)
async def test_stop_and_pause_end_the_waiting(
    room: Any, plan: Plan, method: str, request_: Any
) -> None:
    """What is held stays so; the round goes on without it, and behind it the run ends."""
    run_id, _, task = await waiting(room, plan)
    stub = await room.as_admin()
    began = time.monotonic()
    await getattr(stub, method)(request_(run_id=run_id, reason="enough"), timeout=10)
    judged = await asyncio.wait_for(task, 20)
    assert time.monotonic() - began < 5
    assert Update.VERDICT_HELD in {each.verdict for each in judged.verdicts.values()}


async def test_coordinator_that_was_replaced_waits_no_longer(room: Any, plan: Plan) -> None:
    """Its successor does."""
    run_id, _, task = await waiting(room, plan)
    await take_up(room, run_id)
    with pytest.raises(FailedPrecondition) as ended:
        await asyncio.wait_for(task, 20)
    assert ended.value.reason == "STATE_CONFLICT"


async def test_wishes_are_told_at_once_and_after_every_change(room: Any, plan: Plan) -> None:
    """And to the run's own coordinator only."""
    run_id = await room.start(plan())
    attempt = await take_up(room, run_id)
    stub = training_pb2_grpc.CoordinatorServiceStub(await room.channel("coordinator"))
    request = training_pb2.WatchWishesRequest(run_id=run_id, attempt=attempt)
    call = stub.WatchWishes(request, timeout=30)
    wishes = aiter(call)
    assert await anext(wishes) == training_pb2.WatchWishesResponse()
    admin = await room.as_admin()
    await admin.PauseRun(training_pb2.PauseRunRequest(run_id=run_id), timeout=10)
    assert await anext(wishes) == training_pb2.WatchWishesResponse(pause=True)
    await admin.StopRun(training_pb2.StopRunRequest(run_id=run_id), timeout=10)
    assert await anext(wishes) == training_pb2.WatchWishesResponse(stop=True)
    await take_up(room, run_id)
    assert await refused(anext(wishes)) == "STATE_CONFLICT"
    unknown = training_pb2.WatchWishesRequest(run_id="run-0", attempt=1)
    found = await refused(anext(aiter(stub.WatchWishes(unknown, timeout=10))))
    assert found == "RESOURCE_NOT_FOUND"
    others = training_pb2_grpc.CoordinatorServiceStub(await room.channel("autopilot"))
    found = await refused(anext(aiter(others.WatchWishes(request, timeout=10))))
    assert found == "POLICY_DENIED"


async def refused(awaitable: Any) -> str:
    """Returns the reason."""
    with pytest.raises(grpc.RpcError) as error:
        await awaitable
    return from_rpc_error(error.value).reason


class HeldRounds:
    """Sites whose updates a real review holds, so that no model can be made of them."""

    names = ("site-1", "site-2", "site-3")

    def __init__(self, gate: ReviewGate) -> None:
        self.gate = gate
        self.tries = 0

    def train(self, number: int, model: Any, *, attempt: int, **_: Any) -> Tried:
        self.tries += 1
        self.gate.attempt = attempt
        judged = self.gate.judge(number, SENT).verdicts
        held = [name for name, each in judged.items() if each.verdict == Update.VERDICT_HELD]
        assert held
        return Tried(None, [Outcome(participant=n, outcome=HELD, steps=2, tries=1) for n in SENT])

    def report(self, number: int, model: Any, participants: Any, *, steps: int) -> Any:
        return training_pb2.Round(round=number, accuracy=0.5, loss=0.7, steps=steps)


@pytest.mark.parametrize(
    ("method", "request_", "state"),
    [
        ("StopRun", training_pb2.StopRunRequest, Run.STATE_STOPPED),
        ("PauseRun", training_pb2.PauseRunRequest, Run.STATE_PAUSED),
    ],
)
async def test_run_that_is_ended_while_it_waits_has_not_failed(
    room: Any, plan: Plan, method: str, request_: Any, state: Any
) -> None:
    """Too few updates are accepted without those that are held; nobody is asked once more."""
    private = plan(review=True)
    private.simulation = False
    run_id = await room.start(private)
    async with room.database.transaction() as connection:
        attempt = await store.next_attempt(connection, run_id, room.runs._clock())
    channel = await room.channel("coordinator")
    server, loop = Server(channel, run_id, attempt), asyncio.get_running_loop()
    review = review_pb2_grpc.ReviewServiceStub(channel)
    gate = ReviewGate(review, loop, run_id=run_id, hold_seconds=3600, called_off=server.called_off)
    rounds = HeldRounds(gate)
    task = asyncio.create_task(coordinate(server, lambda position: rounds))  # type: ignore[arg-type]
    await held(room, run_id)
    stub = await room.as_admin()
    await getattr(stub, method)(request_(run_id=run_id, reason="enough"), timeout=10)
    await asyncio.wait_for(task, 20)
    run = (await stub.GetRun(training_pb2.GetRunRequest(run_id=run_id), timeout=10)).run
    assert (run.state, run.reason, rounds.tries) == (state, "enough", 1)
    # What two tries of the round may have asked for is paid for, though it was not made.
    if state == Run.STATE_PAUSED:
        run = (await stub.StopRun(training_pb2.StopRunRequest(run_id=run_id), timeout=10)).run
    view = await room.runs.get(run_id)
    assert view.run.steps_settled == 2 * private.local_steps


async def held(room: Any, run_id: str) -> None:
    """Returns once the review holds an update of a run."""
    reviews = review_pb2_grpc.ReviewServiceStub(await room.channel("admin"))
    request = review_pb2.ListUpdatesRequest(run_id=run_id)
    async with asyncio.timeout(30):
        while not any(
            each.verdict == Update.VERDICT_HELD
            for each in (await reviews.ListUpdates(request, timeout=10)).updates
        ):
            await asyncio.sleep(0.2)
