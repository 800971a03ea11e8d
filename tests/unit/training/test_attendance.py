"""What bounds the memory of streams: one copy of a content, and a bound on what comes in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.blobs import key_file

from aegis_server.objects.blobs import BlobMissing, BlobStore
from aegis_server.objects.folder import Folder
from aegis_server.objects.keys import LocalKeys
from aegis_server.training.attendance.contents import Contents
from aegis_server.training.attendance.memory import Memory


class Counting(BlobStore):
    """Counts how often something is read."""

    reads = 0

    async def get(self, sha256: bytes) -> bytes:
        """As a store."""
        self.reads += 1
        await asyncio.sleep(0.01)
        return await super().get(sha256)


def _counting(folder: Path) -> Counting:
    return Counting(Folder(folder / "blobs"), LocalKeys(key_file(folder / "key")))


async def _hold(contents: Contents, sha256: bytes, release: asyncio.Event) -> bytes:
    async with contents.lend(sha256) as data:
        await release.wait()
        return data


async def test_a_content_is_read_once_for_all_who_send_it(tmp_path: Path) -> None:
    """And again only when nobody had it any more."""
    blobs, release = _counting(tmp_path), asyncio.Event()
    contents, sha256 = Contents(blobs), await blobs.put(b"model")
    holding = [asyncio.create_task(_hold(contents, sha256, release)) for _ in range(20)]
    await asyncio.sleep(0.1)
    release.set()
    datas = await asyncio.gather(*holding)
    assert blobs.reads == 1
    assert all(data is datas[0] for data in datas)
    await _hold(contents, sha256, release)
    assert blobs.reads == 2


async def test_only_so_many_contents_are_held(tmp_path: Path) -> None:
    """The next one waits, whoever went before: also one that failed or gave up waiting."""
    blobs, release = _counting(tmp_path), asyncio.Event()
    contents = Contents(blobs, at_once=1)
    first, second = await blobs.put(b"first"), await blobs.put(b"second")
    with pytest.raises(BlobMissing):
        await _hold(contents, bytes(32), release)
    holding = asyncio.create_task(_hold(contents, first, release))
    await asyncio.sleep(0.1)
    impatient = asyncio.create_task(_hold(contents, second, release))
    await asyncio.sleep(0.05)
    impatient.cancel()
    waiting = asyncio.create_task(_hold(contents, second, release))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    release.set()
    assert (await holding, await waiting) == (b"first", b"second")


async def test_memory_is_bounded() -> None:
    """Who may not wait is told; who waits gets what is given back."""
    memory = Memory(100)
    assert await memory.take(60, seconds=5)
    assert not memory.wanted
    assert not await memory.take(60, seconds=0.01)
    assert memory.wanted
    waiting = asyncio.create_task(memory.take(60, seconds=5))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await memory.give_back(60)
    assert await waiting
    assert memory.taken == 60


async def test_what_is_larger_than_the_bound_takes_all_of_it() -> None:
    """It waits for everybody else instead of for ever."""
    memory = Memory(100)
    assert await memory.take(1000, seconds=5)
    assert memory.taken == 100
    await memory.give_back(1000)
    assert memory.taken == 0
