"""Answers on their way up one stream: announced, collected chunk by chunk, taken.

Nothing is held that was not announced and expected, and never more than was announced: chunks of
anything else are dropped where they arrive.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from aegis.errors import AegisError, ResourceExhausted, Unavailable
from aegis.v1 import participant_pb2
from aegis_server.training.attendance.memory import Memory
from aegis_server.training.tasks.answers import Answer, Answers

Response = participant_pb2.AttendResponse

_AT_ONCE = 4
# Reasons that end a task, or say that it has ended.
_FINAL = frozenset({"ANSWER_REPEATED", "DIGEST_MISMATCH", "REQUEST_TOO_LARGE", "TASK_CLOSED"})


@dataclass(slots=True)
class _Arriving:
    announced: Answer
    data: bytearray = field(default_factory=bytearray)


class Incoming:
    """The answers of one stream."""

    def __init__(self, answers: Answers, memory: Memory, participant: str) -> None:
        self._answers = answers
        self._memory = memory
        self._participant = participant
        self._arriving: dict[str, _Arriving] = {}
        # Tasks that need no cancel any more: the site has been told how they ended.
        self.settled: set[str] = set()

    async def announce(self, announced: Answer) -> Response | None:
        """Expects an answer; returns what can be said already.

        Raises `ResourceExhausted` (RATE_LIMITED) when this stream has several under way and there
        is no room for more: it can be begun again later, and nothing is lost.
        """
        await self.forget([announced.task_id])
        try:
            task = await self._answers.expect(self._participant, announced)
            if task is None:
                return self._accepted(announced.task_id)
            if announced.error or not announced.size_bytes:
                return await self._take(announced, b"")
        except AegisError as error:
            return self._rejected(announced.task_id, error)
        # Who holds nothing may wait; who does would wait for himself.
        taken = len(self._arriving) < _AT_ONCE and await self._memory.take(
            announced.size_bytes, wait=not self._arriving
        )
        if not taken:
            raise ResourceExhausted(
                "RATE_LIMITED", "too many answers at once: come again", retry_seconds=1
            )
        self._arriving[announced.task_id] = _Arriving(announced)
        return None

    async def add(self, chunk: participant_pb2.AttendRequest.Chunk) -> Response | None:
        """Adds a chunk; returns what became of the answer it completes."""
        arriving = self._arriving.get(chunk.task_id)
        if arriving is None:
            return None
        arriving.data += chunk.data
        if len(arriving.data) < arriving.announced.size_bytes:
            return None
        try:
            return await self._take(arriving.announced, bytes(arriving.data))
        except AegisError as error:
            return self._rejected(chunk.task_id, error)
        finally:
            await self.forget([chunk.task_id])

    async def refuse(self, refusal: participant_pb2.AttendRequest.Refusal) -> Response:
        """Notes that the site will not do a task."""
        try:
            await self._answers.refuse(self._participant, refusal)
        except AegisError as error:
            return self._rejected(refusal.task_id, error)
        return self._accepted(refusal.task_id)

    async def receive(self, task_id: str) -> Response | None:
        """Notes that the site has a task whole."""
        try:
            await self._answers.receive(self._participant, task_id)
        except AegisError as error:
            return self._rejected(task_id, error)
        return None

    async def forget(self, task_ids: Iterable[str] | None = None) -> None:
        """Drops what has arrived of some tasks, or of all."""
        for task_id in list(self._arriving if task_ids is None else task_ids):
            arriving = self._arriving.pop(task_id, None)
            if arriving is not None:
                await self._memory.give_back(arriving.announced.size_bytes)

    async def _take(self, announced: Answer, data: bytes) -> Response:
        await self._answers.take(self._participant, announced, data)
        return self._accepted(announced.task_id)

    def _accepted(self, task_id: str) -> Response:
        self.settled.add(task_id)
        return Response(accepted=Response.Accepted(task_id=task_id))

    def _rejected(self, task_id: str, error: AegisError) -> Response:
        if isinstance(error, Unavailable) or error.reason == "STORAGE_FULL":
            # Nothing was decided: the stream ends, and the site brings it again.
            raise error
        if error.reason in _FINAL:
            self.settled.add(task_id)
        return Response(
            rejected=Response.Rejected(task_id=task_id, reason=error.reason, message=error.message)
        )
