"""Uploads: bytes on their way in, resumable where sending them again would hurt.

What fits into one part is only ever in memory, and sent again when its stream breaks off. Of
anything larger each full part goes to Postgres, so that a stream that broke off goes on at any
server, and an unfinished upload holds one part in memory, however slowly it comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

from aegis.errors import (
    AegisError,
    FieldViolation,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis_server.review.uploads import store
from aegis_server.review.uploads.store import Name

log = logging.getLogger(__name__)

PART_BYTES = 1024 * 1024
# Of one participant; each at most as large as an update of its run.
_UNFINISHED_MAX = 4
_KEPT = timedelta(hours=1)
_LOOK_SECONDS = 60.0


class Uploads:
    """Collects the bytes of updates. Run `run()`, or what nobody goes on with stays for ever."""

    def __init__(self, database: Database, deeds: Deeds, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._deeds = deeds
        self._clock = clock

    async def received(self, name: Name) -> int:
        """Returns how many bytes of an upload are here."""
        async with self._database.transaction() as connection:
            return await store.received(connection, name)

    async def collect(self, name: Name, chunks: AsyncIterator[bytes], *, offset: int) -> bytes:
        """Returns the whole upload, of which `chunks` are what begins at `offset`.

        Parts stay until `drop`. Raises `InvalidArgument`: DIGEST_MISMATCH for another number of
        bytes than announced, FIELD_INVALID when `offset` is not where it broke off or another
        stream sends the same; and `ResourceExhausted` (UPLOADS_TOO_MANY).
        """
        large = name.size_bytes > PART_BYTES
        await self._begin(name, offset, large=large)
        start, buffer, keeping = offset, bytearray(), False
        try:
            async for chunk in chunks:
                buffer += chunk
                _require_announced(name, start + len(buffer))
                if large and len(buffer) >= PART_BYTES:
                    keeping = True
                    await self._deeds.finish(self._keep(name, start, bytes(buffer[:PART_BYTES])))
                    start, keeping = start + PART_BYTES, False
                    del buffer[:PART_BYTES]
        except AegisError:
            raise
        except BaseException:
            # Its client is gone. What it has sent of a large one, it need not send again: a part
            # that is being kept will be, and what is left of the buffer otherwise.
            if large and buffer and not keeping:
                self._deeds.begin(self._rest(name, start, bytes(buffer)))
            raise
        if start + len(buffer) < name.size_bytes:
            # So it looks, too, when its client is gone.
            if large and buffer:
                await self._deeds.finish(self._rest(name, start, bytes(buffer)))
            raise InvalidArgument(
                "DIGEST_MISMATCH", f"fewer bytes came than the announced {name.size_bytes}"
            )
        if not start:
            return bytes(buffer)
        async with self._database.transaction() as connection:
            return await store.content(connection, name) + bytes(buffer)

    async def drop(self, name: Name) -> None:
        """Forgets an upload that is whole, or that was refused."""
        if name.size_bytes <= PART_BYTES:
            return
        async with self._database.transaction() as connection:
            await store.drop(connection, name)

    async def run(self) -> None:
        """Forgets what nobody went on with for an hour, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self.forget_old()
            except Unavailable as error:
                log.debug("old uploads stay for now: %s", error)

    async def forget_old(self) -> int:
        """Forgets what nobody went on with for an hour; returns how many."""
        async with self._database.transaction() as connection:
            return await store.drop_older(connection, self._clock() - _KEPT)

    async def _begin(self, name: Name, offset: int, *, large: bool) -> None:
        if not offset:
            await self.drop(name)  # it is sent anew
        elif not large or offset != await self.received(name):
            raise _elsewhere("is not where the upload broke off: ask GetUpload")
        if not large:
            return
        async with self._database.transaction() as connection:
            others = await store.count(connection, name.participant, but=name)
        if others >= _UNFINISHED_MAX:
            raise ResourceExhausted(
                "UPLOADS_TOO_MANY",
                f"{name.participant} has {others} unfinished uploads: finish one, or wait an hour",
                participant=name.participant,
            )

    async def _keep(self, name: Name, start: int, content: bytes) -> None:
        async with self._database.transaction() as connection:
            kept = await store.append(
                connection, name, start=start, content=content, now=self._clock()
            )
        if not kept:
            raise _elsewhere("another stream sends the same upload")

    async def _rest(self, name: Name, start: int, content: bytes) -> None:
        try:
            await self._keep(name, start, content)
        except InvalidArgument:
            log.debug("an upload goes on in another stream")


def _require_announced(name: Name, size: int) -> None:
    if size > name.size_bytes:
        raise InvalidArgument(
            "DIGEST_MISMATCH", f"more bytes came than the announced {name.size_bytes}"
        )


def _elsewhere(description: str) -> InvalidArgument:
    violation = FieldViolation("header.offset", description)
    return InvalidArgument("FIELD_INVALID", f"header.offset {description}", violations=[violation])
