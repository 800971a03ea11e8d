"""The client that asks: what travels together, and what stays each caller's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tests.replicas import Stand, until

from aegis.decisions import FULLY_CURRENT, AtLeast, Decision, DecisionClient
from aegis.errors import (
    AegisError,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)


@pytest.fixture
async def client(channel: grpc.aio.Channel) -> AsyncIterator[DecisionClient]:
    async with DecisionClient(channel) as opened:
        yield opened


async def ask(client: DecisionClient, **changes: Any) -> Decision:
    asked = {"subject": "user:rita", "resource": "/books/1", "action": "read", **changes}
    return await client.check(**asked)


async def test_checks_of_one_moment_are_one_call(stand: Stand, client: DecisionClient):
    """A hundred tasks ask; each gets the answer to its own question."""
    asked = [ask(client, resource=f"/{'books' if n % 2 else 'films'}/{n}") for n in range(100)]
    decisions = await asyncio.gather(*asked)
    assert [decision.allowed for decision in decisions] == [bool(n % 2) for n in range(100)]
    assert [len(call.requests) for call in stand.service.asked] == [100]
    assert (decisions[1].rule_id, decisions[1].revision) == ("readers-read", 1)


async def test_checks_one_after_the_other_do_not_wait(stand: Stand, client: DecisionClient):
    """Nothing is held back to see whether more comes."""
    for _ in range(3):
        assert await ask(client)
    assert [len(call.requests) for call in stand.service.asked] == [1, 1, 1]


async def test_a_call_has_at_most_a_thousand(stand: Stand, client: DecisionClient):
    """More are several calls."""
    await asyncio.gather(*(ask(client) for _ in range(2100)))
    assert sorted(len(call.requests) for call in stand.service.asked) == [100, 1000, 1000]


async def test_a_call_fits_through_the_doors(stand: Stand, client: DecisionClient):
    """Large attributes make more calls, none of them larger than a server takes."""
    text = "x" * 50_000
    decisions = await asyncio.gather(*(ask(client, attributes={"t": text}) for _ in range(10)))
    assert all(decisions)
    assert sorted(len(call.requests) for call in stand.service.asked) == [2, 4, 4]


async def test_each_consistency_is_a_call(stand: Stand, client: DecisionClient):
    """Who wants the newest rules does not make the others wait for them."""
    wanted = [None, FULLY_CURRENT, AtLeast(1), None, AtLeast(1)]
    await asyncio.gather(*(ask(client, consistency=each) for each in wanted))
    told = {
        (call.consistency.fully_current, call.consistency.at_least_revision): len(call.requests)
        for call in stand.service.asked
    }
    assert told == {(False, 0): 2, (True, 0): 1, (False, 1): 2}


async def test_one_bad_question_leaves_the_others_alone(stand: Stand, client: DecisionClient):
    """What can be seen here is refused here; what only the server sees is that caller's error."""
    results = await asyncio.gather(
        ask(client),
        ask(client, resource="books"),
        ask(client, action="explode"),
        ask(client, attributes={"n": float("inf")}),
        return_exceptions=True,
    )
    assert results[0]
    fields = []
    for error in results[1:]:
        assert isinstance(error, InvalidArgument)
        fields.append(error.violations[0].field)
    assert fields == ["resource", "action", "attributes.n"]
    assert [len(call.requests) for call in stand.service.asked] == [2]


async def test_a_batch_refused_for_one_question_is_asked_in_parts(
    stand: Stand, client: DecisionClient
):
    """A server that is stricter than this client still answers everybody else."""

    def refuse() -> AegisError:
        return InvalidArgument("FIELD_INVALID", "requests[2].subject: not that one")

    stand.service.failures = [refuse(), refuse(), refuse()]
    results = await asyncio.gather(*(ask(client) for _ in range(4)), return_exceptions=True)
    assert [isinstance(result, AegisError) for result in results] == [True, False, False, False]
    assert str(results[0]) == "subject: not that one"


async def test_a_failed_call_fails_each_caller_by_itself(stand: Stand, client: DecisionClient):
    """Each has an error object of its own, with the server's reason."""
    stand.service.failures = [ResourceExhausted("DECISION_LOG_FULL", "later", retry_seconds=2)]
    results = await asyncio.gather(ask(client), ask(client), return_exceptions=True)
    for error in results:
        assert isinstance(error, ResourceExhausted)
        assert (error.reason, error.retry_seconds) == ("DECISION_LOG_FULL", 2)
    assert results[0] is not results[1]


async def test_who_stops_waiting_does_not_disturb_the_others(stand: Stand, client: DecisionClient):
    """Before the call and during it."""
    stand.service.hold = asyncio.Event()
    leaves_early = asyncio.create_task(ask(client))
    leaves = asyncio.create_task(ask(client))
    stays = asyncio.create_task(ask(client))
    await asyncio.sleep(0)
    leaves_early.cancel()
    await until(lambda: stand.service.asked)
    leaves.cancel()
    await asyncio.sleep(0.01)
    stand.service.hold.set()
    assert await stays
    assert leaves.cancelled()
    assert leaves_early.cancelled()
    assert [len(call.requests) for call in stand.service.asked] == [2]


async def test_a_call_has_a_deadline(stand: Stand, channel: grpc.aio.Channel):
    """A server that does not answer is not waited for."""
    stand.service.hold = asyncio.Event()
    async with DecisionClient(channel, timeout_seconds=0.1) as client:
        with pytest.raises(DeadlineExceeded):
            await ask(client)


async def test_a_server_that_is_away_is_unavailable(stand: Stand, client: DecisionClient):
    """Not a hang, not a denial."""
    await stand.stop()
    with pytest.raises(Unavailable):
        await ask(client)


async def test_closing_ends_what_is_under_way(stand: Stand, channel: grpc.aio.Channel):
    """Who waits is cancelled."""
    stand.service.hold = asyncio.Event()
    client = DecisionClient(channel)
    waiting = asyncio.create_task(ask(client))
    await until(lambda: stand.service.asked)
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
