"""Updates that reach the review another way, in rounds in which their senders do not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from flwr.app import Error, Message
from tests.integration.training.test_review_hold import update

from aegis.v1 import review_pb2_grpc, training_pb2
from aegis_server.training import store
from aegis_server.training.calls import Position, Server
from aegis_server.training.flower import SITE_REFUSED
from aegis_server.training.gate import ReviewGate
from aegis_server.training.grid import LocalGrid
from aegis_server.training.loop import coordinate
from aegis_server.training.rounds import Rounds
from aegis_server.training.sites import sites_of

Plan = Callable[..., training_pb2.RunPlan]
Run = training_pb2.Run
Outcome = training_pb2.ParticipantRound


class Refusing(LocalGrid):
    """Sites that refuse whatever they are asked; some have sent an update by then."""

    def __init__(self, gate: ReviewGate, loop: Any, mailed: Mapping[str, bytes]) -> None:
        super().__init__({})
        self.gate, self.loop, self.mailed = gate, loop, mailed

    def gather(self, messages: Iterable[Message], **_: Any) -> list[Message]:
        for name, data in self.mailed.items():
            sending = self.gate._submit(1, name, data)
            asyncio.run_coroutine_threadsafe(sending, self.loop).result(20)
        return [Message(Error(SITE_REFUSED, "no"), reply_to=message) for message in messages]


async def ran(
    room: Any, plan: training_pb2.RunPlan, mailed: Mapping[str, bytes]
) -> training_pb2.Run:
    """A run of one round in which every site refuses."""
    run_id = await room.start(plan)
    async with room.database.transaction() as connection:
        attempt = await store.next_attempt(connection, run_id, room.runs._clock())
    channel, loop = await room.channel("coordinator"), asyncio.get_running_loop()
    stub = review_pb2_grpc.ReviewServiceStub(channel)
    gate = ReviewGate(stub, loop, run_id=run_id)

    def prepare(position: Position) -> Rounds:
        sites = sites_of(position.plan, position.data)
        grid = Refusing(gate, loop, mailed)
        return Rounds(position.plan, position.noise_multiplier, gate, sites=sites, grid=grid)

    await coordinate(Server(channel, run_id, attempt, patience_seconds=5), prepare)
    stub = await room.as_admin()
    return (await stub.GetRun(training_pb2.GetRunRequest(run_id=run_id), timeout=10)).run  # type: ignore[no-any-return]


def outcomes(run: training_pb2.Run) -> dict[str, str]:
    return {
        each.participant: Outcome.Outcome.Name(each.outcome).removeprefix("OUTCOME_").lower()
        for each in run.rounds[1].participants
    }


@pytest.mark.parametrize("simulation", [True, False])
async def test_model_is_made_of_mailed_updates_alone(
    room: Any, plan: Plan, simulation: bool
) -> None:
    """Every site refuses, two have sent theirs: those have trained, and it is paid for."""
    wanted = plan(review=True, rounds=1)
    wanted.simulation = simulation
    run = await ran(room, wanted, {"site-1": update(1, 0.05), "site-2": update(2, 0.05)})
    assert (run.state, run.reason) == (Run.STATE_COMPLETED, "")
    assert outcomes(run) == {"site-1": "aggregated", "site-2": "aggregated", "site-3": "refused"}
    steps = {each.participant: each.steps for each in run.rounds[1].participants}
    assert steps == {"site-1": 2, "site-2": 2, "site-3": 0}


async def test_mailed_update_that_is_held_is_not_missing(room: Any, plan: Plan) -> None:
    """Its sender is told what became of it, and so is whoever looks at the run."""
    sent = {"site-1": update(1, 50.0), "site-2": update(2, 0.05)}
    run = await ran(room, plan(review=True, rounds=1, min_participants=1), sent)
    assert run.state == Run.STATE_COMPLETED
    assert outcomes(run) == {"site-1": "held", "site-2": "aggregated", "site-3": "refused"}
    one = run.rounds[1].participants[0]
    assert one.update_id
    assert "spoke against it" in one.reason
