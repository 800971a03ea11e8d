"""The review's gate: what is an update's fault, and what is nobody's."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from aegis.errors import (
    AegisError,
    AlreadyExists,
    DataLoss,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from aegis.v1 import review_pb2, review_pb2_grpc
from aegis_server.training.gate import ReviewGate
from aegis_server.training.strategy import Judged

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


MINE, THEIRS = b"one", b"sent by mail"
HELD, ACCEPTED, REJECTED = Update.VERDICT_HELD, Update.VERDICT_ACCEPTED, Update.VERDICT_REJECTED


class Room(Review):
    """A review in which updates are what the test says, and change when it says."""

    def __init__(self, *states: dict[str, Any], fallback: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.states = states
        self.review = review_pb2.RoundReview(
            fallback=bool(fallback), fallback_participants=fallback, reason="who is it?"
        )
        self.downloads: list[str] = []
        self.watched = 0

    def _updates(self, state: dict[str, Any]) -> list[Update]:
        return [
            Update(
                update_id=f"upd-{name}",
                participant=name,
                verdict=verdict,
                sha256=hashlib.sha256(THEIRS).digest(),
            )
            for name, verdict in state.items()
        ]

    async def ReviewRound(self, request: Any, context: Any) -> Any:
        return review_pb2.ReviewRoundResponse(
            updates=self._updates(self.states[0]), review=self.review
        )

    async def WatchRound(self, request: Any, context: Any) -> Any:
        self.watched += 1
        for state in self.states:
            yield review_pb2.WatchRoundResponse(updates=self._updates(state), review=self.review)
        if HELD in self.states[-1].values():
            await asyncio.sleep(60)

    async def DownloadUpdate(self, request: Any, context: Any) -> Any:
        self.downloads.append(request.update_id)
        yield review_pb2.DownloadUpdateResponse(chunk=THEIRS)


async def judged_by(
    review: Review,
    hold_seconds: float = 0.0,
    updates: dict[str, bytes] | None = None,
    asked: tuple[str, ...] = (),
) -> Judged:
    server = grpc.aio.server()
    review_pb2_grpc.add_ReviewServiceServicer_to_server(review, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            gate = ReviewGate(
                review_pb2_grpc.ReviewServiceStub(channel),
                asyncio.get_running_loop(),
                run_id="run-1",
                patience_seconds=1.5,
                hold_seconds=hold_seconds,
            )
            sent = {"site-1": MINE} if updates is None else updates
            return await asyncio.to_thread(gate.judge, 1, sent, asked)
    finally:
        await server.stop(None)


async def test_accepted_update_that_came_another_way_is_fetched() -> None:
    """Those that were rejected or held are not, nor is what this coordinator sent itself."""
    room = Room({"site-1": ACCEPTED, "site-2": ACCEPTED, "site-3": REJECTED, "site-4": HELD})
    judged = await judged_by(room)
    assert judged.outside == {"site-2": THEIRS}
    assert room.downloads == ["upd-site-2"]


async def test_participant_that_sent_an_update_before_cannot_fail_the_round() -> None:
    """It answers with other bytes: the first ones count, and are fetched."""
    room = Room({"site-1": ACCEPTED, "site-2": ACCEPTED})
    room.refusals = [AlreadyExists("REQUEST_ID_REUSED", "it sent another one")]
    judged = await judged_by(room, updates={"site-1": MINE, "site-2": b"two"})
    assert judged.outside == {"site-1": THEIRS}
    assert isinstance(judged.verdicts["site-1"], Update)


async def test_review_is_told_whose_updates_were_asked_for() -> None:
    """Every time it is asked, because only the first time counts."""

    participants: list[list[str]] = []

    class Told(Room):
        async def ReviewRound(self, request: Any, context: Any) -> Any:
            participants.append(list(request.participants))
            if len(participants) < 2:
                busy = Unavailable("REVIEW_BUSY", "not yet")
                await context.abort_with_status(rpc_status.to_status(busy.to_status()))
            return await super().ReviewRound(request, context)

    await judged_by(Told({"site-1": ACCEPTED}), asked=("site-1", "site-2"))
    assert participants == [["site-1", "site-2"]] * 2


async def test_held_updates_are_waited_for_as_long_as_the_plan_says() -> None:
    """The verdicts that count are those when nothing is held any more."""
    room = Room({"site-1": HELD}, {"site-1": ACCEPTED})
    judged = await judged_by(room, hold_seconds=20)
    assert judged.verdicts["site-1"].verdict == ACCEPTED


async def test_round_goes_on_without_what_is_still_held() -> None:
    """A person who does not come stops nobody for longer than the plan says."""
    began = time.monotonic()
    judged = await judged_by(Room({"site-1": HELD}), hold_seconds=0.7)
    assert judged.verdicts["site-1"].verdict == HELD
    assert time.monotonic() - began < 10


async def test_plan_without_a_hold_waits_for_nobody() -> None:
    """The round goes on at once."""
    room = Room({"site-1": HELD})
    await judged_by(room)
    assert room.watched == 0


async def test_fallback_names_whose_median_may_be_the_model() -> None:
    """With the bytes of those that came another way."""
    room = Room({"site-1": HELD, "site-2": HELD}, fallback=("site-1", "site-2"))
    judged = await judged_by(room)
    assert (judged.fallback, judged.why) == (("site-1", "site-2"), "who is it?")
    assert judged.outside == {"site-2": THEIRS}


async def test_round_people_have_decided_needs_no_fallback() -> None:
    """They said who the odd ones are."""
    states = ({"site-1": HELD, "site-2": HELD}, {"site-1": ACCEPTED, "site-2": REJECTED})
    judged = await judged_by(Room(*states, fallback=("site-1", "site-2")), hold_seconds=20)
    assert judged.fallback == ()


async def test_deadline_takes_the_fallback_from_no_round() -> None:
    """It says no more of who the odd ones are than before; a person's word stands."""

    class Late(Room):
        def _updates(self, state: dict[str, Any]) -> list[Update]:
            updates = super()._updates(state)
            for each in updates:
                by = "user:olga" if each.participant == "site-1" else ""
                each.overrides.add(to=each.verdict, by=by, effective=True)
            return updates

    names = ("site-1", "site-2", "site-3")
    judged = await judged_by(Late(dict.fromkeys(names, REJECTED), fallback=names))
    assert judged.fallback == ("site-2", "site-3")
    assert judged.outside == {"site-2": THEIRS, "site-3": THEIRS}


async def test_review_that_is_busy_is_asked_again() -> None:
    """It decides nothing and loses nothing; the round is no participant's fault."""

    class Busy(Room):
        asked = 0

        async def ReviewRound(self, request: Any, context: Any) -> Any:
            self.asked += 1
            if self.asked < 4:
                busy = Unavailable("REVIEW_BUSY", "not yet")
                await context.abort_with_status(rpc_status.to_status(busy.to_status()))
            return await super().ReviewRound(request, context)

    judged = await judged_by(Busy({"site-1": ACCEPTED}))
    assert judged.verdicts["site-1"].verdict == ACCEPTED


async def test_round_nobody_sent_an_update_for_is_no_error() -> None:
    """There is nothing to judge, and so no model."""

    class Empty(Room):
        async def ReviewRound(self, request: Any, context: Any) -> Any:
            none = NotFound("RESOURCE_NOT_FOUND", "no update")
            await context.abort_with_status(rpc_status.to_status(none.to_status()))

    assert await judged_by(Empty({}), updates={}) == Judged({})
