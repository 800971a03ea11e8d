"""The calls by which a coordinator has sites asked: dispatch, collect, close.

UNAVAILABLE is no answer: a server that is restarted in the middle of a round finds us asking again,
and tasks and answers are where they were.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

import grpc

from aegis.errors import AegisError, DeadlineExceeded, Unavailable, from_rpc_error
from aegis.v1 import training_pb2, training_pb2_grpc

Answer = TypeVar("Answer")
Collected = training_pb2.CollectAnswersResponse.Collected
Header = training_pb2.DispatchTasksRequest.Header

_CHUNK = 256 * 1024
# A megabyte a second is the least we expect of a way to the server.
_CALL_SECONDS = 60.0
_BYTES_A_SECOND = 1024 * 1024
_PAUSE_SECONDS_MIN = 0.1
_PAUSE_SECONDS_MAX = 2.0


class Relay:
    """The tasks of one run, for one of its coordinators."""

    def __init__(
        self, stub: training_pb2_grpc.CoordinatorServiceStub, run_id: str, attempt: int
    ) -> None:
        self._stub = stub
        self._run_id = run_id
        self._attempt = attempt

    async def dispatch(self, header: Header, content: bytes, *, until: float) -> list[str]:
        """Puts a content before the header's participants; returns task ids in their order.

        `until` is on the monotonic clock, here as everywhere. Raises `AegisError`.
        """
        header.run_id, header.attempt = self._run_id, self._attempt
        header.content_sha256 = hashlib.sha256(content).digest()
        header.content_size_bytes = len(content)

        async def parts() -> AsyncIterator[training_pb2.DispatchTasksRequest]:
            yield training_pb2.DispatchTasksRequest(header=header)
            for start in range(0, len(content), _CHUNK):
                yield training_pb2.DispatchTasksRequest(chunk=content[start : start + _CHUNK])

        async def ask() -> list[str]:
            seconds = _CALL_SECONDS + len(content) / _BYTES_A_SECOND
            return list((await self._stub.DispatchTasks(parts(), timeout=seconds)).task_ids)

        return await _persistent(ask, until)

    async def collect(
        self, task_ids: Iterable[str], told: Callable[[Collected, bytes], None], *, until: float
    ) -> None:
        """Tells how each task ended and what was answered, as it comes; returns after the last.

        Raises `AegisError`; `Unavailable` once the server has been away beyond `until`.
        """
        waiting = dict.fromkeys(task_ids)

        async def ask() -> None:
            request = training_pb2.CollectAnswersRequest(
                run_id=self._run_id, attempt=self._attempt, task_ids=waiting
            )
            collected, answer = Collected(), bytearray()
            async for part in self._stub.CollectAnswers(request):
                if part.HasField("collected"):
                    collected, answer = part.collected, bytearray()
                answer += part.chunk
                if len(answer) == collected.size_bytes:
                    told(collected, bytes(answer))
                    del waiting[collected.task_id]

        while waiting:
            await _persistent(ask, until)

    async def close(self, round: int, *, until: float) -> None:  # noqa: A002
        """Closes what is open of a round; raises `AegisError`."""
        request = training_pb2.CloseTasksRequest(
            run_id=self._run_id, attempt=self._attempt, round=round
        )

        async def ask() -> None:
            await self._stub.CloseTasks(request, timeout=_CALL_SECONDS)

        await _persistent(ask, until)


async def _persistent(ask: Callable[[], Awaitable[Answer]], until: float) -> Answer:
    pause = _PAUSE_SECONDS_MIN
    while True:
        try:
            return await ask()
        except grpc.RpcError as error:
            failure: AegisError = from_rpc_error(error)
            patient = isinstance(failure, Unavailable | DeadlineExceeded)
            if not patient or time.monotonic() > until:
                raise failure from error
        await asyncio.sleep(pause)
        pause = min(2 * pause, _PAUSE_SECONDS_MAX)
