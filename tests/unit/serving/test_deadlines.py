"""A deadline ends what takes too long, and leaves alone what somebody else ends."""

from __future__ import annotations

import asyncio

import pytest

from aegis.serving.deadlines import Deadline


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
