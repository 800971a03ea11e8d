"""One stream to the server: what goes up waits its turn, so that a heartbeat is never behind a
whole model."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from aegis.v1 import participant_pb2
from aegis_participant.answers import Answer
from aegis_participant.tasks import Task

CHUNK_BYTES = 256 * 1024
_WAITING_MAX = 16
Request = participant_pb2.AttendRequest


class StreamGone(Exception):
    """The stream ended before it was all said; the server will ask again on the next."""


class Stream:
    """The way up of one call."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Request] = asyncio.Queue(_WAITING_MAX)
        self._closed = False

    async def say(self, message: Request) -> None:
        """Puts a message in line; raises `StreamGone`."""
        if self._closed:
            raise StreamGone
        await self._waiting.put(message)
        if self._closed:
            raise StreamGone

    async def answer(self, task: Task, answer: Answer) -> None:
        """Puts an answer in line, its content in chunks; raises `StreamGone`."""
        await self.say(
            Request(
                answer=Request.Answer(
                    task_id=task.task_id,
                    nonce=task.nonce,
                    sha256=hashlib.sha256(answer.content).digest(),
                    size_bytes=len(answer.content),
                    steps=answer.steps,
                    seconds=answer.seconds,
                    error=answer.error,
                )
            )
        )
        for start in range(0, len(answer.content), CHUNK_BYTES):
            part = answer.content[start : start + CHUNK_BYTES]
            await self.say(Request(chunk=Request.Chunk(task_id=task.task_id, data=part)))

    async def pump(self, call: Any) -> None:
        """Sends what is in line, until cancelled or until the call has ended."""
        while True:
            message = await self._waiting.get()
            await call.write(message)
            self._waiting.task_done()

    async def beat(self, every_seconds: float) -> None:
        """Sends heartbeats, a little more often than they are asked for, until cancelled."""
        number = 0
        while True:
            number += 1
            message = Request(heartbeat=Request.Heartbeat(number=number))
            message.heartbeat.clock.GetCurrentTime()
            await self.say(message)
            await asyncio.sleep(every_seconds * 0.8)

    async def sent(self) -> None:
        """Waits until all of it is on its way."""
        await self._waiting.join()

    def close(self) -> None:
        """Lets go whoever waits for a place in line."""
        self._closed = True
        while not self._waiting.empty():
            self._waiting.get_nowait()
