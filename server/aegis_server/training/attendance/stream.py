"""One stream of a participant: tasks go down, answers come up.

Two tasks work on it, one that reads and one that offers; what both have to say goes through a short
queue, so that a site that does not read holds a few chunks and no more. Everything that matters is
in the database before it is said here: a stream may break at any moment and is begun again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from aegis.errors import DeadlineExceeded, FieldViolation, InvalidArgument
from aegis.v1 import participant_pb2, training_pb2
from aegis_server.objects.blobs import BlobDamaged, BlobMissing
from aegis_server.training.attendance.contents import Contents
from aegis_server.training.attendance.incoming import Incoming
from aegis_server.training.tasks.news import Subscription
from aegis_server.training.tasks.store import StoredTask

log = logging.getLogger(__name__)

Request = participant_pb2.AttendRequest
Response = participant_pb2.AttendResponse

# SHA-256 of a data set's schema, by its name.
SchemaOf = Callable[[str], Awaitable[bytes]]

_CHUNK = 256 * 1024
_QUEUE = 8
# However often a site beats, it is written down once in so long.
_SEE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things happen on a stream, in seconds."""

    heartbeat: float = 10.0
    poll: float = 2.0

    @property
    def silence(self) -> float:
        """After so long without a sign of life, a stream ends."""
        return 3 * self.heartbeat


@dataclass(frozen=True, slots=True)
class Means:
    """What a stream works with.

    `look` returns what its participant is asked for now and raises when the stream may not go on;
    `see` notes a sign of life, with what the site's clock showed; `own_app` is what sites run where
    a plan names no application.
    """

    look: Callable[[], Awaitable[list[StoredTask] | None]]
    see: Callable[[datetime], Awaitable[None]]
    contents: Contents
    own_app: training_pb2.App
    schema_of: SchemaOf
    clock: Callable[[], datetime]
    pace: Pace


class Stream:
    """One stream, from its welcome to its end."""

    def __init__(self, means: Means, incoming: Incoming, heard: Subscription) -> None:
        self._means = means
        self._incoming = incoming
        self._heard = heard
        self._outbox: asyncio.Queue[Response] = asyncio.Queue(_QUEUE)
        self._offered: set[str] = set()
        self._seen_at = -math.inf

    async def responses(self, requests: AsyncIterator[Request]) -> AsyncGenerator[Response, None]:
        """Yields what goes down, until the site is done.

        Raises what ended the stream: silence, or what `look` raises.
        """
        reading = asyncio.create_task(self._read(requests))
        offering = asyncio.create_task(self._offer())
        try:
            while (response := await self._next(reading, offering)) is not None:
                yield response
        finally:
            for worker in (reading, offering):
                worker.cancel()
            await asyncio.gather(reading, offering, return_exceptions=True)

    async def _next(
        self, reading: asyncio.Task[None], offering: asyncio.Task[None]
    ) -> Response | None:
        if self._outbox.empty() and not reading.done():
            getting = asyncio.create_task(self._outbox.get())
            try:
                await asyncio.wait(
                    {getting, reading, offering}, return_when=asyncio.FIRST_COMPLETED
                )
                if getting.done():
                    return getting.result()
            finally:
                getting.cancel()
        for worker in (reading, offering):
            if worker.done():
                worker.result()
        return None if self._outbox.empty() else self._outbox.get_nowait()

    async def _say(self, response: Response) -> None:
        try:
            async with asyncio.timeout(self._means.pace.silence):
                await self._outbox.put(response)
        except TimeoutError:
            raise DeadlineExceeded("PEER_SILENT", "nothing was read for too long") from None

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        while (request := await next_within(requests, self._means.pace.silence)) is not None:
            response = await self._heed(request)
            self._incoming.require_pace()
            if response is not None:
                await self._say(response)

    async def _heed(self, request: Request) -> Response | None:
        incoming = self._incoming
        match request.WhichOneof("part"):
            case "heartbeat":
                return await self._echo(request.heartbeat)
            case "receipt":
                return await incoming.receive(request.receipt.task_id)
            case "answer":
                return await incoming.announce(request.answer)
            case "chunk":
                return await incoming.add(request.chunk)
            case "refusal":
                return await incoming.refuse(request.refusal)
            case "progress":
                return None
        description = "comes once, and first" if request.HasField("hello") else "is empty"
        raise InvalidArgument(
            "FIELD_INVALID", description, violations=[FieldViolation("part", description)]
        )

    async def _echo(self, heartbeat: Request.Heartbeat) -> Response:
        shown = time_of(heartbeat.clock)
        if time.monotonic() - self._seen_at >= _SEE_SECONDS:
            self._seen_at = time.monotonic()
            await self._means.see(shown)
        echo = Response.Echo(number=heartbeat.number)
        echo.clock.FromDatetime(self._means.clock())
        return Response(echo=echo)

    async def _offer(self) -> None:
        while True:
            tasks = await self._means.look()
            if tasks is not None:
                await self._take_back({task.task_id for task in tasks})
                for task in tasks:
                    if task.task_id not in self._offered:
                        await self._push(task)
            await self._heard.wait(self._means.pace.poll)

    async def _take_back(self, still_open: set[str]) -> None:
        closed, settled = self._offered - still_open, self._incoming.settled
        await self._incoming.forget(closed)
        for task_id in closed - settled:
            cancel = Response.Cancel(task_id=task_id, reason="TASK_CLOSED")
            await self._say(Response(cancel=cancel))
        self._offered -= closed
        settled -= closed

    async def _push(self, task: StoredTask) -> None:
        self._offered.add(task.task_id)
        try:
            async with self._means.contents.lend(task.content_sha256) as content:
                await self._say(Response(task=await self._announcement(task)))
                await self._push_chunks(task.task_id, content)
        except (BlobMissing, BlobDamaged) as error:
            # The coordinator will see that nobody answered; other tasks are not to blame.
            log.error("the content of %s cannot be sent: %s", task.task_id, error)  # noqa: TRY400

    async def _push_chunks(self, task_id: str, content: bytes) -> None:
        looked = time.monotonic()
        for start in range(0, len(content), _CHUNK):
            if time.monotonic() - looked > self._means.pace.poll:
                # A slow way down must not carry on for somebody who was revoked.
                tasks, looked = await self._means.look(), time.monotonic()
                if tasks is not None and all(task.task_id != task_id for task in tasks):
                    return
            chunk = Response.Chunk(task_id=task_id, data=content[start : start + _CHUNK])
            await self._say(Response(chunk=chunk))

    async def _announcement(self, task: StoredTask) -> Response.Task:
        plan = training_pb2.RunPlan.FromString(task.plan)
        app = plan.app if plan.HasField("app") else self._means.own_app
        message = Response.Task(
            task_id=task.task_id,
            nonce=task.nonce,
            run_id=task.run_id,
            round=task.round,
            repeat=task.repeat,
            message_type=task.message_type,
            group_id=task.group_id,
            content_sha256=task.content_sha256,
            content_size_bytes=task.content_size_bytes,
            app=app.name,
            app_sha256=app.sha256,
            dataset=plan.dataset,
            schema_sha256=await self._means.schema_of(plan.dataset),
            simulation=plan.simulation,
            answer_bytes_max=task.answer_bytes_max,
        )
        if task.mechanism:
            message.mechanism.MergeFromString(task.mechanism)
        left = max(0.0, (task.deadline - self._means.clock()).total_seconds())
        message.time_left.FromNanoseconds(int(left * 1e9))
        return message


async def next_within(requests: AsyncIterator[Request], seconds: float) -> Request | None:
    """Returns the next request, or None after the last; raises `DeadlineExceeded` for silence."""
    try:
        async with asyncio.timeout(seconds):
            return await anext(requests, None)
    except TimeoutError:
        raise DeadlineExceeded("PEER_SILENT", f"nothing was heard for {seconds:g} s") from None


def time_of(clock: Timestamp) -> datetime:
    """Returns what a clock showed, in UTC; raises `InvalidArgument` for what none can show."""
    try:
        return clock.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        description = "is no time between the years 1 and 9999"
        raise InvalidArgument(
            "FIELD_INVALID",
            f"clock {description}",
            violations=[FieldViolation("clock", description)],
        ) from None
