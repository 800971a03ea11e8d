"""The review's gate: what is an update's fault, and what is nobody's."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from aegis.errors import AegisError, DataLoss, InvalidArgument, ResourceExhausted, Unavailable
from aegis.v1 import review_pb2, review_pb2_grpc
from aegis_server.training.gate import ReviewGate

Update = review_pb2.Update


class Review(review_pb2_grpc.ReviewServiceServicer):
    """A review that accepts everything, once it has said what the test tells it to."""

    def __init__(self, *refusals: AegisError) -> None:
        self.refusals = list(refusals)
        self.submitted: list[str] = []

    async def SubmitUpdate(self, request_iterator: Any, context: Any) -> Any:
        parts = [part async for part in request_iterator]
        if self.refusals:
            error = self.refusals.pop(0)
            await context.abort_with_status(rpc_status.to_status(error.to_status()))
        self.submitted.append(parts[0].header.participant)
        return review_pb2.SubmitUpdateResponse(update=Update(participant=self.submitted[-1]))

    async def ReviewRound(self, request: Any, context: Any) -> Any:
        verdict = Update.VERDICT_ACCEPTED
        return review_pb2.ReviewRoundResponse(
            updates=[Update(participant=name, verdict=verdict) for name in self.submitted]
        )


async def _judge(review: Review) -> Any:
    server = grpc.aio.server()
    review_pb2_grpc.add_ReviewServiceServicer_to_server(review, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = review_pb2_grpc.ReviewServiceStub(channel)
            gate = ReviewGate(
                stub, asyncio.get_running_loop(), run_id="run-1", patience_seconds=1.5
            )
            judged = await asyncio.to_thread(gate.judge, 1, {"site-1": b"one", "site-2": b"two"})
            return judged.verdicts
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    "refusal",
    [
        InvalidArgument("UPDATE_NOT_FINITE", "it holds NaN"),
        ResourceExhausted("REQUEST_TOO_LARGE", "it is too large"),
    ],
    ids=lambda refusal: refusal.reason,
)
async def test_a_bad_update_fails_its_sender(refusal: AegisError) -> None:
    """The other one is judged."""
    verdicts = await _judge(Review(refusal))
    assert verdicts["site-1"].reason == refusal.reason
    assert verdicts["site-2"].verdict == Update.VERDICT_ACCEPTED


@pytest.mark.parametrize(
    "refusal",
    [
        Unavailable("DATABASE_UNAVAILABLE", "no database"),
        ResourceExhausted("STORAGE_FULL", "no room"),
    ],
    ids=lambda refusal: refusal.reason,
)
async def test_a_server_that_is_away_for_a_moment_is_asked_again(refusal: AegisError) -> None:
    """To train once more instead would cost everybody."""
    verdicts = await _judge(Review(refusal))
    assert {each.verdict for each in verdicts.values()} == {Update.VERDICT_ACCEPTED}


@pytest.mark.parametrize(
    "refusal",
    [ResourceExhausted("STORAGE_FULL", "no room"), DataLoss("DATA_DAMAGED", "it is damaged")],
    ids=lambda refusal: refusal.reason,
)
async def test_what_stays_wrong_is_nobodys_fault(refusal: AegisError) -> None:
    """It ends the round, and no participant is said to have failed."""
    with pytest.raises(type(refusal)) as raised:
        await _judge(Review(*[refusal] * 9))
    assert raised.value.reason == refusal.reason
