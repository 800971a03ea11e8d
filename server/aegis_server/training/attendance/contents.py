"""What is being sent, in memory once however many participants get it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aegis_server.objects.blobs import BlobStore


class _Shared:
    def __init__(self, reading: asyncio.Task[bytes]) -> None:
        self.reading = reading
        self.readers = 0


class Contents:
    """Blobs that are lent to many at once, and let go after the last.

    At most `at_once` different ones are held; who wants another waits.
    """

    def __init__(self, blobs: BlobStore, *, at_once: int = 8) -> None:
        self._blobs = blobs
        self._slots = asyncio.Semaphore(at_once)
        self._held: dict[bytes, _Shared] = {}

    @asynccontextmanager
    async def lend(self, sha256: bytes) -> AsyncIterator[bytes]:
        """Lends the bytes; raises `BlobMissing` or `BlobDamaged`."""
        shared = self._held.get(sha256)
        if shared is None:
            shared = self._held[sha256] = _Shared(asyncio.create_task(self._read(sha256)))
        shared.readers += 1
        try:
            yield await asyncio.shield(shared.reading)
        finally:
            shared.readers -= 1
            if not shared.readers:
                del self._held[sha256]
                await self._let_go(shared)

    async def _read(self, sha256: bytes) -> bytes:
        await self._slots.acquire()
        try:
            return await self._blobs.get(sha256)
        except BaseException:
            self._slots.release()
            raise

    async def _let_go(self, shared: _Shared) -> None:
        if shared.reading.done():
            if not shared.reading.cancelled() and shared.reading.exception() is None:
                self._slots.release()
            return
        # Nobody waits for it any more; its slot is given back where it was taken.
        shared.reading.cancel()
        await asyncio.wait([shared.reading])
        if not shared.reading.cancelled() and shared.reading.exception() is None:
            self._slots.release()
