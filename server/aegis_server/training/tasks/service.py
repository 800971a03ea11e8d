"""CoordinatorService, the part about tasks: wire to values and back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from aegis.errors import DataLoss, FieldViolation, InvalidArgument, ResourceExhausted
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context
from aegis.v1 import training_pb2, training_pb2_grpc
from aegis_server.training.tasks.news import News
from aegis_server.training.tasks.store import StoredTask
from aegis_server.training.tasks.tasks import TASK_BYTES_MAX, Order, Tasks

log = logging.getLogger(__name__)

Response = training_pb2.CollectAnswersResponse

_CHUNK = 256 * 1024
_POLL_SECONDS = 1.0
# Overdue tasks are ended by whoever looks; not in the very moment, or they are looked at twice.
_LATER_SECONDS = 0.005


class TaskCalls(training_pb2_grpc.CoordinatorServiceServicer):
    """Tasks, as coordinators speak of them; the rest of the service is its subclass."""

    def __init__(self, tasks: Tasks, news: News, deeds: Deeds) -> None:
        self._tasks = tasks
        self._news = news
        self._deeds = deeds

    async def DispatchTasks(
        self, request_iterator: AsyncIterator[training_pb2.DispatchTasksRequest], context: Context
    ) -> training_pb2.DispatchTasksResponse:
        """The whole content is read before anything is stored."""
        self._news.require_open()
        parts = aiter(request_iterator)
        header = await _header(parts)
        content = await _content(parts, header.content_size_bytes)
        order = Order(
            run_id=header.run_id,
            attempt=header.attempt,
            round=header.round,
            repeat=header.repeat,
            participants=tuple(header.participants),
            message_type=header.message_type,
            group_id=header.group_id,
            content_sha256=header.content_sha256,
            seconds=header.time_left.ToTimedelta().total_seconds(),
            answer_bytes_max=header.answer_bytes_max,
            mechanism=header.mechanism if header.HasField("mechanism") else None,
        )
        ids = await self._deeds.finish(self._tasks.dispatch(order, content))
        return training_pb2.DispatchTasksResponse(task_ids=ids)

    async def CollectAnswers(
        self, request: training_pb2.CollectAnswersRequest, context: Context
    ) -> AsyncIterator[Response]:
        """Each task once, when it has ended."""
        waiting = set(request.task_ids)
        with self._news.about(f"run:{request.run_id}") as heard:
            while True:
                ended, seconds = await self._tasks.ended(request.run_id, request.attempt, waiting)
                for task in ended:
                    waiting.discard(task.task_id)
                    told, answer = _collected(task), b""
                    try:
                        answer = await self._tasks.answer_of(task)
                    except DataLoss as error:
                        # It is lost, and what it cost is spent: the others' round goes on.
                        log.error("the answer to %s is lost: %s", task.task_id, error)  # noqa: TRY400
                        told.end, told.reason, told.size_bytes = (
                            Response.END_FAILED,
                            error.reason,
                            0,
                        )
                    yield Response(collected=told)
                    for start in range(0, len(answer), _CHUNK):
                        yield Response(chunk=answer[start : start + _CHUNK])
                if not waiting:
                    return
                await heard.wait(min(_POLL_SECONDS, seconds + _LATER_SECONDS))

    async def CloseTasks(
        self, request: training_pb2.CloseTasksRequest, context: Context
    ) -> training_pb2.CloseTasksResponse:
        """Of one round."""
        closed = await self._deeds.finish(
            self._tasks.close(request.run_id, request.attempt, request.round)
        )
        return training_pb2.CloseTasksResponse(closed=closed)


async def _header(
    parts: AsyncIterator[training_pb2.DispatchTasksRequest],
) -> training_pb2.DispatchTasksRequest.Header:
    first = await anext(parts, training_pb2.DispatchTasksRequest())
    header = first.header
    if not first.HasField("header"):
        raise _invalid("header", "has to come first")
    if header.time_left.ToTimedelta().total_seconds() <= 0:
        raise _invalid("header.time_left", "must be positive")
    for size, noun in (
        (header.content_size_bytes, "a content"),
        (header.answer_bytes_max, "an answer"),
    ):
        if size > TASK_BYTES_MAX:
            raise ResourceExhausted(
                "REQUEST_TOO_LARGE",
                f"{noun} has at most {TASK_BYTES_MAX} bytes",
                limit_bytes=TASK_BYTES_MAX,
            )
    return header


async def _content(parts: AsyncIterator[training_pb2.DispatchTasksRequest], size: int) -> bytes:
    content = bytearray()
    async for part in parts:
        content += part.chunk
        if not part.chunk or len(content) > size:
            break
    if len(content) != size:
        raise InvalidArgument("DIGEST_MISMATCH", f"the content is not the announced {size} bytes")
    return bytes(content)


def _invalid(field: str, description: str) -> InvalidArgument:
    return InvalidArgument(
        "FIELD_INVALID",
        f"{field} {description}",
        violations=[FieldViolation(field, description)],
    )


def _collected(task: StoredTask) -> Response.Collected:
    return Response.Collected(
        task_id=task.task_id,
        participant=task.participant,
        end=Response.End.ValueType(task.ended),
        reason=task.reason,
        sha256=task.answer_sha256 or b"",
        size_bytes=task.answer_size_bytes,
        steps=task.steps_spent,
        seconds=task.seconds,
    )
