"""A deadline ends what takes too long, and leaves alone what somebody else ends."""

from __future__ import annotations

import asyncio

import pytest

from aegis.serving.deadlines import Deadline, within


async def test_what_takes_too_long_is_ended_with_a_timeout() -> None:
    """The task goes on behind it: the cancellation was the deadline's own."""
    with pytest.raises(TimeoutError), Deadline(0.01):
        await asyncio.sleep(60)
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_ends_in_time_is_not_disturbed_later() -> None:
    """Its timer ends with it."""
    with Deadline(0.01):
        answer = await asyncio.sleep(0, "done")
    await asyncio.sleep(0.03)
    assert answer == "done"


async def test_who_is_cancelled_from_outside_stays_cancelled() -> None:
    """A client that leaves is no timeout, not even when the deadline passes meanwhile."""
    expired = asyncio.Event()

    async def bounded() -> None:
        with Deadline(0.01):
            try:
                await asyncio.sleep(60)
            finally:
                expired.set()
                await asyncio.sleep(0.03)

    early = asyncio.create_task(bounded())
    await asyncio.sleep(0)
    early.cancel()
    with pytest.raises(asyncio.CancelledError):
        await early
    expired.clear()
    both = asyncio.create_task(bounded())
    await expired.wait()
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both


async def test_other_errors_pass() -> None:
    """What goes wrong inside is told as what it is."""
    with pytest.raises(ValueError, match="inside"), Deadline(1):
        raise ValueError("inside")


async def test_a_deed_within_its_time_is_awaited_to_its_end() -> None:
    """However often it waits, and also where it catches what a wait of its own ended with."""

    async def deed() -> str:
        await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)
        return await asyncio.sleep(0, "done")

    assert await within(lambda: 60, deed()) == "done"


async def test_a_deed_that_never_waits_is_not_timed() -> None:
    """Nobody could end it: not even the clock is asked."""

    async def deed(error: Exception | None) -> str:
        if error is not None:
            raise error
        return "done"

    assert await within(lambda: 1 // 0, deed(None)) == "done"
    with pytest.raises(ValueError, match="inside"):
        await within(lambda: 1 // 0, deed(ValueError("inside")))


async def test_a_deed_that_takes_too_long_is_ended_with_a_timeout() -> None:
    """It is cancelled where it waits, may still tidy up, and its task goes on."""
    tidied = []

    async def deed() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            tidied.append("up")

    with pytest.raises(TimeoutError):
        await within(lambda: 0.01, deed())
    task = asyncio.current_task()
    assert task is not None
    assert (tidied, task.cancelling()) == (["up"], 0)


async def test_a_deed_whose_client_leaves_is_cancelled_and_no_timeout() -> None:
    """It may even answer instead; what it raises is what comes out."""
    waiting = asyncio.Event()

    async def deed(answer: str) -> str:
        try:
            waiting.set()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if not answer:
                raise
        return answer

    async def bounded(answer: str) -> str:
        return await within(lambda: 60, deed(answer))

    for answer in ("", "done"):
        waiting.clear()
        task = asyncio.create_task(bounded(answer))
        await waiting.wait()
        task.cancel()
        if answer:
            assert await task == answer
        else:
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_a_deed_that_is_thrown_away_while_it_waits_is_closed() -> None:
    """As a loop does it that ends before its tasks."""
    closed = []

    async def deed() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            closed.append(True)

    async def bounded() -> None:
        await within(lambda: 60, deed())

    running = bounded()
    running.send(None)
    running.close()
    assert closed == [True]
