"""Answers on their way up one stream: announced, collected chunk by chunk, taken.

Nothing is held that was not announced and expected, and never more than was announced: chunks of
anything else are dropped where they arrive. Room is kept for a whole answer when it is announced,
so who announces one and does not bring it would keep others out: while somebody waits for room,
answers have to come at a pace.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aegis.errors import AegisError, DataLoss, ResourceExhausted, Unavailable
from aegis.v1 import participant_pb2
from aegis_server.training.attendance.memory import Memory
from aegis_server.training.tasks.answers import Answer, Answers

Response = participant_pb2.AttendResponse

_AT_ONCE = 4
_BYTES_A_SECOND_MIN = 64 * 1024
# Reasons that end a task, or say that it has ended.
_FINAL = frozenset({"ANSWER_REPEATED", "DIGEST_MISMATCH", "REQUEST_TOO_LARGE", "TASK_CLOSED"})


@dataclass(slots=True)
class _Arriving:
    announced: Answer
    data: bytearray = field(default_factory=bytearray)
    began: float = field(default_factory=time.monotonic)


class Incoming:
    """The answers of one stream; `patience` is how many seconds room is waited for and lent."""

    def __init__(
        self, answers: Answers, memory: Memory, participant: str, *, patience: float
    ) -> None:
        self._answers = answers
        self._memory = memory
        self._participant = participant
        self._patience = patience
        self._arriving: dict[str, _Arriving] = {}
        # Tasks that need no cancel any more: the site has been told how they ended.
        self.settled: set[str] = set()

    async def announce(self, announced: Answer) -> Response | None:
        """Expects an answer; returns what can be said already.

        Raises `ResourceExhausted` (RATE_LIMITED) when there is no room, or this stream has too many
        under way: it can be begun again later, and nothing is lost.
        """
        await self.forget([announced.task_id])
        try:
            with self._telling(announced.task_id):
                task = await self._answers.expect(self._participant, announced)
            if task is None:
                return self._accepted(announced.task_id)
            if announced.error or not announced.size_bytes:
                return await self._take(announced, b"")
        except AegisError as error:
            return self._rejected(announced.task_id, error)
        self.settled.discard(announced.task_id)
        # Who holds nothing may wait; who does would wait for himself.
        taken = len(self._arriving) < _AT_ONCE and await self._memory.take(
            announced.size_bytes, seconds=0.0 if self._arriving else self._patience
        )
        if not taken:
            raise _come_again("too many answers at once")
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

    def require_pace(self) -> None:
        """Raises `ResourceExhausted` (RATE_LIMITED) for an answer that keeps others out."""
        if not self._memory.wanted:
            return
        now = time.monotonic()
        for arriving in self._arriving.values():
            due = _BYTES_A_SECOND_MIN * (now - arriving.began - self._patience)
            if len(arriving.data) < due:
                raise _come_again("an answer comes too slowly, and others wait")

    async def refuse(self, refusal: participant_pb2.AttendRequest.Refusal) -> Response:
        """Notes that the site will not do a task."""
        try:
            with self._telling(refusal.task_id):
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
        with self._telling(announced.task_id):
            await self._answers.take(self._participant, announced, data)
        return self._accepted(announced.task_id)

    @contextmanager
    def _telling(self, task_id: str) -> Iterator[None]:
        # From before its end is in the database: a cancel would cross what we are about to say.
        self.settled.add(task_id)
        try:
            yield
        except BaseException:
            self.settled.discard(task_id)
            raise

    def _accepted(self, task_id: str) -> Response:
        self.settled.add(task_id)
        return Response(accepted=Response.Accepted(task_id=task_id))

    def _rejected(self, task_id: str, error: AegisError) -> Response:
        if isinstance(error, Unavailable | DataLoss) or error.reason == "STORAGE_FULL":
            # Nothing was decided: the stream ends, and the site brings it again.
            raise error
        if error.reason in _FINAL:
            self.settled.add(task_id)
        return Response(
            rejected=Response.Rejected(task_id=task_id, reason=error.reason, message=error.message)
        )


def _come_again(why: str) -> ResourceExhausted:
    return ResourceExhausted("RATE_LIMITED", f"{why}: come again", retry_seconds=1)
