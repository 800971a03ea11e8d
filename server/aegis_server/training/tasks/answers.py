"""Answers as participants bring them: received, answered, failed, refused.

A participant is believed as little as possible. What it sends is looked at in this order: whose
task it is, whether it is open and this is its nonce, its size, its digest. What it holds is for the
coordinator and the review. The first answer counts; the same again is accepted again, and costs
nothing. What a task costs is what it asked for, whatever steps its answer claims to have taken.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime

from aegis.errors import (
    AegisError,
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from aegis.serving.database import Connection, Database
from aegis.v1 import errors_pb2, participant_pb2, training_pb2
from aegis_server.objects.blobs import BlobStore
from aegis_server.training.tasks import store
from aegis_server.training.tasks.store import Ending, StoredTask
from aegis_server.training.words import kind_of, one_line

Answer = participant_pb2.AttendRequest.Answer
Refusal = participant_pb2.AttendRequest.Refusal
End = training_pb2.CollectAnswersResponse

_REASONS = frozenset(errors_pb2.ErrorReason.keys())


class Answers:
    """What comes back for tasks."""

    def __init__(
        self, database: Database, blobs: BlobStore, *, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock

    async def receive(self, participant: str, task_id: str) -> None:
        """Notes that a task has arrived: from here on it is spent, though it be closed meanwhile.

        Raises `NotFound`, or `FailedPrecondition` (TASK_CLOSED).
        """
        async with self._database.transaction() as connection:
            task = await _theirs(connection, participant, task_id, lock=True)
            await store.set_received(connection, task_id, self._clock())
        self._require_open(task)

    async def expect(self, participant: str, announced: Answer) -> StoredTask | None:
        """Returns the task an announced answer is for; None when that very answer is here.

        Raises `NotFound`, `FailedPrecondition` (TASK_CLOSED), `AlreadyExists` (ANSWER_REPEATED),
        `InvalidArgument` for another nonce, or `ResourceExhausted` (REQUEST_TOO_LARGE), which ends
        the task. Whoever answers has received the task, whether it said so or not.
        """
        async with self._database.transaction() as connection:
            task = await _theirs(connection, participant, announced.task_id, lock=True)
            if announced.nonce == task.nonce:
                await store.set_received(connection, task.task_id, self._clock())
        if self._is_here(task, announced):
            return None
        if announced.size_bytes <= task.answer_bytes_max:
            return task
        async with self._database.transaction() as connection:
            task = await _theirs(connection, participant, announced.task_id, lock=True)
            if not task.ended:
                await self._end(connection, task, _failed(task, "REQUEST_TOO_LARGE"))
        raise ResourceExhausted(
            "REQUEST_TOO_LARGE",
            f"an answer has at most {task.answer_bytes_max} bytes here",
            limit_bytes=task.answer_bytes_max,
        )

    async def take(self, participant: str, announced: Answer, data: bytes) -> None:
        """Takes an answer that is here whole, or an error in its place.

        Raises as `expect` does, and `InvalidArgument` (DIGEST_MISMATCH), which ends the task.
        """
        digest = (await asyncio.to_thread(hashlib.sha256, data)).digest()
        whole = bool(announced.error) or (len(data), digest) == (
            announced.size_bytes,
            announced.sha256,
        )
        if whole and not announced.error:
            # Before the transaction: bytes nobody points to cost space, not correctness.
            await self._blobs.put(data)
        async with self._database.transaction() as connection:
            task = await _theirs(connection, participant, announced.task_id, lock=True)
            if self._is_here(task, announced):
                return
            if not whole:
                ending = _failed(task, "DIGEST_MISMATCH")
            elif announced.error:
                ending = _failed(task, kind_of(announced.error))
            else:
                ending = Ending(
                    End.END_ANSWERED,
                    steps_spent=task.steps,
                    answer_sha256=digest,
                    answer_size_bytes=len(data),
                )
            await self._end(connection, task, ending)
        if not whole:
            raise InvalidArgument("DIGEST_MISMATCH", "the answer does not have its SHA-256")

    async def refuse(self, participant: str, refusal: Refusal) -> None:
        """Ends a task that the site will not do; it has cost nothing unless it was received.

        Raises `NotFound`, or `FailedPrecondition` (TASK_CLOSED).
        """
        known = f"ERROR_REASON_{refusal.reason}" in _REASONS
        words = [refusal.reason if known else "", one_line(refusal.message, 500)]
        async with self._database.transaction() as connection:
            task = await _theirs(connection, participant, refusal.task_id, lock=True)
            if task.ended == End.END_REFUSED:
                return
            self._require_open(task)
            spent = 0 if task.received_at is None else task.steps
            reason = ": ".join(word for word in words if word)
            await self._end(connection, task, Ending(End.END_REFUSED, reason, steps_spent=spent))

    def _is_here(self, task: StoredTask, announced: Answer) -> bool:
        """Says whether this very answer was taken; raises when it cannot be taken either."""
        same = announced.nonce == task.nonce
        if task.ended == End.END_ANSWERED:
            if same and announced.sha256 == task.answer_sha256 and not announced.error:
                return True
            raise AlreadyExists(
                "ANSWER_REPEATED",
                "another answer to this task was taken",
                task_id=task.task_id,
            )
        if same and announced.error and task.ended == End.END_FAILED:
            return True
        self._require_open(task)
        if not same:
            description = "is not the task's"
            raise InvalidArgument(
                "FIELD_INVALID",
                f"answer.nonce {description}",
                violations=[FieldViolation("answer.nonce", description)],
            )
        return False

    def _require_open(self, task: StoredTask) -> None:
        if task.ended:
            state = End.End.Name(End.End.ValueType(task.ended)).removeprefix("END_")
        elif task.over:
            state = "OVER"
        elif task.deadline <= self._clock():
            state = "MISSED"
        else:
            return
        raise _closed(task, state)

    async def _end(self, connection: Connection, task: StoredTask, ending: Ending) -> None:
        await store.end_task(connection, task, ending, self._clock())


async def _theirs(
    connection: Connection, participant: str, task_id: str, *, lock: bool = False
) -> StoredTask:
    task = await store.task_of(connection, task_id, lock=lock)
    if task is None or task.participant != participant:
        raise NotFound("RESOURCE_NOT_FOUND", "there is no such task", resource=task_id)
    return task


def _failed(task: StoredTask, reason: str) -> Ending:
    # Whatever it has done with the rows until then may have left them: it is spent whole.
    return Ending(End.END_FAILED, reason, steps_spent=task.steps)


def _closed(task: StoredTask, state: str) -> AegisError:
    return FailedPrecondition(
        "TASK_CLOSED",
        f"this task is closed: {state.lower()}",
        task_id=task.task_id,
        state=state,
    )
