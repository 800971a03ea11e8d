"""Leashes: a stream ends with what its caller proved itself by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from aegis.errors import AegisError, Unauthenticated
from aegis.serving.leashes import Leash, Leashes
from aegis.spiffe import Caller

ADMIN = Caller("user:admin", "spiffe://aegis.local/user/admin", credential="ca:1")
REVOKED = Unauthenticated("CREDENTIAL_REVOKED", "revoked", credential="certificate")


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def silence() -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 0


async def test_stream_on_a_leash_passes_everything():
    """Nothing is lost, and the end is the stream's own."""
    assert [number async for number in Leash(ADMIN).each(numbers(3))] == [0, 1, 2]


async def test_silent_stream_of_a_revoked_caller_ends_at_once():
    """Also one that waits for something that may never happen."""
    leashes = Leashes()

    async def watch() -> None:
        with leashes.hold(ADMIN) as leash:
            async for _ in leash.each(silence()):
                pass

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    assert leashes.expel(lambda caller: REVOKED if caller.credential == "ca:1" else None) == 1
    with pytest.raises(Unauthenticated) as refusal:
        await watching
    assert refusal.value.reason == "CREDENTIAL_REVOKED"


async def test_both_directions_of_a_stream_end():
    """One waits since before the other was heard last."""
    leashes = Leashes()

    async def drain(leash: Leash, items: AsyncIterator[int]) -> None:
        async for _ in leash.each(items):
            pass

    with leashes.hold(ADMIN) as leash:
        first = asyncio.create_task(drain(leash, silence()))
        await asyncio.sleep(0)
        await drain(leash, numbers(2))
        second = asyncio.create_task(drain(leash, silence()))
        await asyncio.sleep(0)
        leashes.expel(lambda caller: REVOKED)
        async with asyncio.timeout(5):
            ends = await asyncio.gather(first, second, return_exceptions=True)
    assert ends == [REVOKED, REVOKED]


async def test_stream_of_somebody_else_goes_on():
    """Only those the refusal names are ended; a closed one is forgotten."""
    leashes = Leashes()

    def refusal(caller: Caller) -> AegisError | None:
        return REVOKED if caller.subject == "user:other" else None

    with leashes.hold(ADMIN) as leash:
        assert leashes.expel(refusal) == 0
        leash.check()
    assert leashes.expel(lambda caller: REVOKED) == 0


async def test_caller_revoked_between_two_messages_gets_no_further_one():
    """A stream that is never waiting for us is ended at its next message."""
    leash, seen = Leash(ADMIN), []
    with pytest.raises(Unauthenticated):
        async for number in leash.each(numbers(5)):
            seen.append(number)
            if number == 1:
                leash.end(REVOKED)
    assert seen == [0, 1]


async def test_stream_ends_with_the_token_it_was_opened_with():
    """A token of a quarter of an hour does not open a stream of a day."""
    soon = datetime.now(UTC) + timedelta(milliseconds=30)
    leash = Leash(Caller("user:u-1", "", method="session", expires_at=soon))
    with pytest.raises(Unauthenticated) as refusal:
        async for _ in leash.each(silence()):
            pass
    assert refusal.value.reason == "TOKEN_EXPIRED"


async def test_timeout_inside_a_stream_is_not_taken_for_its_leash():
    """A TimeoutError of the handler's own stays one."""

    async def impatient() -> AsyncIterator[int]:
        yield 1
        raise TimeoutError

    with pytest.raises(TimeoutError):
        async for _ in Leash(ADMIN).each(impatient()):
            pass
