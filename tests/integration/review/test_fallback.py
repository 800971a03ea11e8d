"""A round in which nobody can tell who the odd ones are, from the database to the next model."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from tests.blobs import blobs_in
from tests.reviewroom import HELD, KEY, REJECTED, RUN, Room, desks, room
from tests.unit.review.factories import FAMILY, a_round

from aegis.v1 import training_pb2
from aegis_learning import parameters
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_server.review import store
from aegis_server.training.gate import ReviewGate
from aegis_server.training.grid import LocalGrid
from aegis_server.training.sites import Site
from aegis_server.training.strategy import ReviewedStrategy, to_arrays

__all__ = ["desks", "room"]

Outcome = training_pb2.ParticipantRound
FLIPPED = a_round(sites=8, seed=0, **{f"s{n}": "label-flip" for n in range(4, 9)})
BASE = parameters.decode(FLIPPED.base, FAMILY.shapes)
SENT = {
    each.participant: parameters.decode(each.data, FAMILY.shapes) for each in FLIPPED.submissions
}


@pytest.fixture
async def flipped(room: Room) -> Room:
    """Five of the run's eight participants flip their labels."""
    assert room.runs.base is not None
    room.runs.base = replace(
        room.runs.base,
        params_sha256=await blobs_in(room.blobs).put(FLIPPED.base),
        examples={each.participant: each.examples for each in FLIPPED.submissions},
        noises={each.participant: each.noise for each in FLIPPED.submissions},
    )
    return room


def app_that_sends(update: parameters.Parameters) -> ClientApp:
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: object) -> Message:
        return Message(RecordDict({"arrays": to_arrays(update)}), reply_to=message)

    return app


async def trained(room: Room) -> tuple[ReviewedStrategy, ArrayRecord | None]:
    """A round as a coordinator has it: sites answer, the room judges, the strategy aggregates."""
    gate = ReviewGate(room.stub, asyncio.get_running_loop(), run_id=RUN)
    sites = [
        Site(each.participant, number, each.examples, app_that_sends(SENT[each.participant]), {})
        for number, each in enumerate(FLIPPED.submissions, start=1)
    ]
    grid = LocalGrid({site.node_id: (site.app, site.config) for site in sites})
    strategy = ReviewedStrategy(sites, FAMILY.shapes, gate, FedAvg())
    messages = strategy.configure_train(1, to_arrays(BASE), ConfigRecord(), grid)
    replies = grid.send_and_receive(messages, timeout=30)
    model, _ = await asyncio.to_thread(strategy.aggregate_train, 1, replies)
    return strategy, model


def vector(model: ArrayRecord | None) -> np.ndarray:
    assert model is not None
    return parameters.flatten({name: array.numpy() for name, array in model.items()})


def median_of(names: list[str]) -> np.ndarray:
    base = parameters.flatten(BASE)
    return base + np.median([parameters.flatten(SENT[name]) for name in names], axis=0)


async def test_model_is_the_median_of_the_participants_the_review_names(flipped: Room):
    """By their names, in the round's row, in its message and in the next model."""
    strategy, model = await trained(flipped)
    async with flipped.database.transaction() as connection:
        row = await store.round_of(connection, KEY)
    assert row is not None
    members = list(row.fallback_participants)
    assert len(members) == 5
    assert {"s1", "s2", "s3"} < set(members) < set(SENT)
    told = {name: outcome.outcome for name, outcome in strategy.outcomes.items()}
    assert [name for name in told if told[name] == Outcome.OUTCOME_AGGREGATED] == members
    np.testing.assert_allclose(vector(model), median_of(members), rtol=1e-5)
    assert "least suspicious 5" in strategy.fallback


async def test_participant_a_person_rejects_is_no_part_of_the_median(flipped: Room):
    """Others may still be held; that one is not unknown any more."""
    for each in FLIPPED.submissions:
        await flipped.submit(each.data, each.participant)
    held = {each.participant: each for each in await flipped.review() if each.verdict == HELD}
    async with flipped.database.transaction() as connection:
        row = await store.round_of(connection, KEY)
    assert row is not None
    (first, *_) = held.keys() & set(row.fallback_participants)
    await flipped.override(held[first].update_id, REJECTED, by="user:olga")
    strategy, model = await trained(flipped)
    rest = [name for name in row.fallback_participants if name != first]
    np.testing.assert_allclose(vector(model), median_of(rest), rtol=1e-5)
    assert strategy.outcomes[first].outcome == Outcome.OUTCOME_REJECTED
