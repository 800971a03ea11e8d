"""Deeds: they outlive their callers, and their failures do not get lost."""

from __future__ import annotations

import asyncio

import pytest

from aegis.serving.deeds import Deeds


async def test_deed_goes_on_when_its_caller_goes_away():
    """A cancelled handler does not leave a mutation half done, and `drain` waits for it."""
    deeds, done = Deeds(), []

    async def deed() -> None:
        await asyncio.sleep(0.05)
        done.append("all")

    caller = asyncio.create_task(deeds.finish(deed()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert done == []
    await deeds.drain()
    assert done == ["all"]


async def test_failure_of_a_deed_whose_caller_has_gone_is_logged(caplog: pytest.LogCaptureFixture):
    """Nobody else would ever hear of it."""
    deeds = Deeds()

    async def deed() -> None:
        await asyncio.sleep(0.01)
        raise OSError("the disk is gone")

    caller = asyncio.create_task(deeds.finish(deed()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await deeds.drain()
    await asyncio.sleep(0)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "the disk is gone"


async def test_failure_of_a_deed_is_its_callers(caplog: pytest.LogCaptureFixture):
    """Who waits is told, and the log stays quiet."""

    async def deed() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await Deeds().finish(deed())
    assert caplog.records == []


async def test_deed_that_nobody_waits_for_is_drained_and_its_failure_logged(
    caplog: pytest.LogCaptureFixture,
):
    """Begun and left, but neither lost at the end nor silent."""
    deeds, told = Deeds(), []

    async def tell(what: str) -> None:
        await asyncio.sleep(0)
        told.append(what)
        raise OSError("nobody listens")

    deeds.begin(tell("an event"))
    assert told == []
    await deeds.drain()
    await asyncio.sleep(0)
    assert told == ["an event"]
    assert [str(record.exc_info[1]) for record in caplog.records] == ["nobody listens"]
