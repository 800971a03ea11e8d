"""A site's presence: one stream to the server, opened again for as long as the site takes part.

The stream may break at any moment and lose what was on it. The server then offers open tasks again:
one that is being worked on goes on, one that was answered is answered with the same bytes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

import grpc

from aegis.errors import (
    AegisError,
    FailedPrecondition,
    Internal,
    ResourceExhausted,
    Unavailable,
    from_rpc_error,
)
from aegis.v1 import participant_pb2, participant_pb2_grpc
from aegis_participant.answers import Answer
from aegis_participant.certificate import Certificate
from aegis_participant.desk import Desk, Worked
from aegis_participant.incoming import Incoming, refusal, seconds_of, task_of
from aegis_participant.reports import Reports
from aegis_participant.settings import Settings
from aegis_participant.status import Status
from aegis_participant.stream import Request, Stream, StreamGone
from aegis_participant.tasks import Task

log = logging.getLogger(__name__)

Response = participant_pb2.AttendResponse

_PROTOCOL = 1
_WELCOME_SECONDS = 30.0
_HEARTBEAT_SECONDS = (0.1, 300.0)
# Silence of so many heartbeats ends a stream.
_SILENCE = 3
_TASKS_MAX = 16
# Together less than ten seconds, which is what a service manager grants.
_DRAIN_SECONDS = 6.0
_LAST_WORDS_SECONDS = 1.5
_BACKOFF_SECONDS = (0.2, 30.0)
_REFUSED_BACKOFF_SECONDS = 10.0
_FOR_GOOD = {
    "PARTICIPANT_REVOKED": "this participation was ended by the control plane, for good: nothing "
    "is sent or accepted any more. Ask its operators why; a new invitation has another name",
    "PARTICIPANT_UNKNOWN": "the control plane does not know this site by its certificate: join "
    "again with a new token from its operators",
}


class ParticipationEnded(Exception):
    """There is no use in trying again; the message tells people what happened and what to do."""


class Attendance:
    """Attends until `stop`, or until the participation has ended."""

    def __init__(
        self,
        settings: Settings,
        stub: participant_pb2_grpc.ParticipantServiceStub,
        desk: Desk,
        *,
        certificate: Certificate,
        reports: Reports,
        status: Status,
        software: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._stub = stub
        self._desk = desk
        self._certificate = certificate
        self._reports = reports
        self._status = status
        self._software = software
        self._clock = clock
        self._stream: Stream | None = None
        self._incoming = Incoming()
        self._working: dict[str, asyncio.Task[None]] = {}
        self._received: set[str] = set()
        self._reporting: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._left = asyncio.Event()
        self._failures = 0

    def stop(self) -> None:
        """Takes no more tasks, finishes what is under way or hands it back, and ends `run`."""
        self._stopping.set()

    async def run(self) -> None:
        """Raises `ParticipationEnded`."""
        leaving = asyncio.create_task(self._leave())
        try:
            while not self._stopping.is_set():
                if self._certificate.ended:
                    raise ParticipationEnded(
                        f"the certificate ended {self._certificate.ends:%Y-%m-%d}, and only one "
                        "that counts can be renewed: join again with a new token"
                    )
                self._status.set(state="connecting", connected_since=None)
                await self._wait_after(await self._attend())
            await leaving
        finally:
            leaving.cancel()
            for task in (*self._working.values(), *self._reporting):
                task.cancel()
            await asyncio.gather(
                leaving, *self._working.values(), *self._reporting, return_exceptions=True
            )

    async def _wait_after(self, error: AegisError | None) -> None:
        """Waits before the next try; raises `ParticipationEnded` when there is none."""
        if error is not None and error.reason in _FOR_GOOD:
            raise ParticipationEnded(_FOR_GOOD[error.reason])
        least, most = _BACKOFF_SECONDS
        seconds = min(most, least * 2 ** min(self._failures, 10))
        if error is not None and error.retry_seconds is not None:
            seconds = max(seconds, error.retry_seconds)
        elif error is not None and error.code is not grpc.StatusCode.UNAVAILABLE:
            # Asking again soon would get the same answer, or throw out a twin of this program.
            seconds = max(seconds, _REFUSED_BACKOFF_SECONDS)
        self._failures += 1
        seconds *= random.uniform(0.5, 1)  # noqa: S311  # many sites, one server
        problem = f"{error.reason}: {error.message}" if error else "the server closed the stream"
        if not self._stopping.is_set():
            log.warning("%s; trying again in %.1f s", problem, seconds)
            self._status.set(state="connecting", detail=problem[:300], connected_since=None)
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _attend(self) -> AegisError | None:
        """Keeps one stream until it ends, and returns what ended it."""
        call = self._stub.Attend()
        stream, self._incoming = Stream(), Incoming()
        self._stream = stream
        helpers = [
            asyncio.create_task(stream.pump(call)),
            asyncio.create_task(self._hang_up(stream, call)),
        ]
        try:
            await stream.say(self._hello())
            first = await _read(call, _WELCOME_SECONDS)
            if first is None or not first.HasField("welcome"):
                return _unavailable("the server did not say welcome")
            least, most = _HEARTBEAT_SECONDS
            every = min(max(seconds_of(first.welcome.heartbeat), least), most)
            helpers.append(asyncio.create_task(stream.beat(every)))
            self._welcomed(first.welcome)
            while (response := await _read(call, _SILENCE * every)) is not None:
                await self._heed(response, stream)
        except grpc.RpcError as error:
            return from_rpc_error(error)
        except TimeoutError:
            return _unavailable("the server has fallen silent")
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return _unavailable("the stream was ended here")  # by _hang_up
        else:
            return None
        finally:
            self._stream = None
            stream.close()
            call.cancel()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    def _hello(self) -> Request:
        hello = Request.Hello(
            protocol=_PROTOCOL,
            software=self._software,
            apps={name: app.sha256 for name, app in self._settings.apps.items()},
            datasets={name: data.schema.sha256 for name, data in self._settings.data.items()},
        )
        hello.clock.FromDatetime(self._clock())
        return Request(hello=hello)

    def _welcomed(self, welcome: Response.Welcome) -> None:
        self._failures = 0
        self._desk.node_id = welcome.node_id
        log.info("attending as %s", welcome.participant)
        self._status.set(state="attending", detail="", connected_since=self._status.now())

    async def _heed(self, response: Response, stream: Stream) -> None:
        if response.HasField("task"):
            await self._announced(response.task, stream)
        elif response.HasField("chunk"):
            await self._arrived(response.chunk, stream)
        elif response.HasField("cancel"):
            self._drop(response.cancel.task_id, response.cancel.reason)
        elif response.HasField("accepted"):
            self._reports.outcome(response.accepted.task_id, "accepted")
        elif response.HasField("rejected"):
            why = f"{response.rejected.reason}: {response.rejected.message}"
            log.warning("the answer to task %s does not count: %s", response.rejected.task_id, why)
            self._reports.outcome(response.rejected.task_id, f"rejected, {why}")
            self._drop(response.rejected.task_id, response.rejected.reason)

    def _drop(self, task_id: str, reason: str) -> None:
        """Ends work that nobody waits for."""
        self._incoming.forget(task_id)
        if working := self._working.get(task_id):
            log.info("task %s is dropped: %s", task_id, reason)
            working.cancel()

    async def _announced(self, announced: Response.Task, stream: Stream) -> None:
        task_id = announced.task_id
        if task_id in self._working:
            if task_id in self._received:
                await stream.say(_receipt(task_id))
            return
        try:
            if self._stopping.is_set():
                raise _shutting_down()
            if len(self._working) >= _TASKS_MAX:
                raise ResourceExhausted("RATE_LIMITED", f"{_TASKS_MAX} tasks are here already")
            empty = task_of(announced, b"", 0.0)
            kept = self._desk.kept(empty)
            if kept is None:
                self._incoming.announce(announced)
                return
        except AegisError as error:
            await self._refuse(task_id, error)
            return
        log.info("task %s is answered from the disk", task_id)
        self._start(task_id, self._resend(empty, kept))

    async def _arrived(self, chunk: Response.Chunk, stream: Stream) -> None:
        try:
            task = self._incoming.add(chunk)
        except AegisError as error:
            await self._refuse(chunk.task_id, error)
            return
        if task is not None:
            self._start(task.task_id, self._work(task))

    def _start(self, task_id: str, work: Any) -> None:
        task = asyncio.create_task(work)
        self._working[task_id] = task

        def ended(_: asyncio.Task[None]) -> None:
            self._working.pop(task_id, None)
            self._received.discard(task_id)
            self._status.set(working_on=sorted(self._working))
            if not task.cancelled() and (failure := task.exception()) is not None:
                log.error("task %s failed here", task_id, exc_info=failure)

        task.add_done_callback(ended)
        self._status.set(working_on=sorted(self._working))

    async def _work(self, task: Task) -> None:
        try:
            cleared = await self._desk.clear(task)
        except AegisError as error:
            log.warning("task %s of run %s is refused: %s", task.task_id, task.run_id, error)
            self._reports.refused(task, error)
            await self._refuse(task.task_id, error)
            return
        except Exception:
            log.exception("task %s failed here", task.task_id)
            await self._refuse(task.task_id, Internal("INTERNAL", "the site failed at the task"))
            return
        self._received.add(task.task_id)
        await self._say(_receipt(task.task_id))
        worked = await self._desk.work(cleared)
        await self._answer(task, worked.answer)
        self._report(worked)

    def _report(self, worked: Worked) -> None:
        # A task of its own: while a bucket is slow the task may be offered again.
        reporting = asyncio.create_task(self._reports.worked(worked))
        self._reporting.add(reporting)
        reporting.add_done_callback(self._reporting.discard)

    async def _resend(self, task: Task, answer: Answer) -> None:
        await self._say(_receipt(task.task_id))
        await self._answer(task, answer)

    async def _answer(self, task: Task, answer: Answer) -> None:
        stream = self._stream
        try:
            if stream is not None:
                await stream.answer(task, answer)
        except StreamGone:
            log.info("task %s will be answered on the next stream", task.task_id)

    async def _refuse(self, task_id: str, error: AegisError) -> None:
        await self._say(refusal(task_id, error))

    async def _say(self, message: Request) -> None:
        try:
            if self._stream is not None:
                await self._stream.say(message)
        except StreamGone:
            pass  # the server offers the task again, and hears it then

    async def _leave(self) -> None:
        """Once stopped: lets work come to its end for a while, and hands the rest back."""
        await self._stopping.wait()
        self._status.set(state="draining")
        under_way = [*self._working.values(), *self._reporting]
        if under_way:
            log.info("stopping: %d tasks are under way", len(self._working))
            await asyncio.wait(under_way, timeout=_DRAIN_SECONDS)
        left = dict(self._working)
        for task in left.values():
            task.cancel()
        await asyncio.gather(*left.values(), return_exceptions=True)
        try:
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                for task_id in left:
                    await self._refuse(task_id, _shutting_down())
        except TimeoutError:
            log.warning("the server does not listen: %d tasks are not handed back", len(left))
        self._left.set()

    async def _hang_up(self, stream: Stream, call: Any) -> None:
        """Ends a stream when the server has heard the last words and ends its side."""
        await self._left.wait()
        try:
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await stream.sent()
                await call.done_writing()
                # What is written may lie here still: a call that is cancelled loses it.
                await call.code()
        except (TimeoutError, grpc.RpcError):
            pass
        call.cancel()


async def _read(call: Any, seconds: float) -> Response | None:
    async with asyncio.timeout(seconds):
        response = await call.read()
    return None if response is grpc.aio.EOF else response


def _receipt(task_id: str) -> Request:
    return Request(receipt=Request.Receipt(task_id=task_id))


def _unavailable(problem: str) -> AegisError:
    return Unavailable("STATE_CONFLICT", problem)


def _shutting_down() -> AegisError:
    return FailedPrecondition("STATE_CONFLICT", "this site is shutting down")
