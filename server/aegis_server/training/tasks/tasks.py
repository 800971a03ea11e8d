"""Tasks as coordinators see them: dispatched, collected, closed.

A task is a row, and there is one for a run, round, repeat, participant and message type, whoever
coordinates. So a coordinator that follows one that died is given the answers that are there, and
nobody is asked twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from aegis.errors import (
    AlreadyExists,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from aegis.serving.database import Connection, Database
from aegis.v1 import participant_pb2
from aegis_server.objects.blobs import BlobStore
from aegis_server.training.states import require, require_current
from aegis_server.training.store import StoredRun, last_rounds
from aegis_server.training.tasks import store
from aegis_server.training.tasks.store import NewTask, StoredTask

log = logging.getLogger(__name__)

# What one content or answer may have: a model that may be stored, as Flower writes it, and more.
TASK_BYTES_MAX = 192 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done, by whom, and how long an answer counts."""

    run_id: str
    attempt: int
    round: int
    repeat: int
    participants: Sequence[str]
    message_type: str
    group_id: str
    content_sha256: bytes
    seconds: float
    answer_bytes_max: int
    mechanism: participant_pb2.Mechanism | None = None


class Tasks:
    """The tasks of all runs, for their coordinators."""

    def __init__(
        self, database: Database, blobs: BlobStore, *, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock

    async def dispatch(self, order: Order, content: bytes) -> list[str]:
        """Makes a task of each participant, or finds it; returns ids in the participants' order.

        Raises `InvalidArgument` (DIGEST_MISMATCH, FIELD_INVALID), `NotFound`, `FailedPrecondition`
        (STATE_CONFLICT), or `AlreadyExists` (REQUEST_ID_REUSED) when a task that is there has other
        content.
        """
        digest = await asyncio.to_thread(hashlib.sha256, content)
        if digest.digest() != order.content_sha256:
            raise InvalidArgument("DIGEST_MISMATCH", "the content does not have its SHA-256")
        async with self._database.transaction() as connection:
            await self._current(connection, order.run_id, order.attempt)
        # Before the transaction: bytes nobody points to cost space, not correctness.
        await self._blobs.put(content)
        async with self._database.transaction() as connection:
            run = await require(connection, order.run_id, lock=True)
            require_current(run, order.attempt)
            await _require_next(connection, run, order.round)
            await _require_sites(connection, order)
            made = _new_tasks(order, len(content), self._clock())
            await store.insert_tasks(connection, made)
            found = await store.tasks_like(connection, made[0])
            for task in made:
                _require_same(found[task.participant], task)
            # A participant may have been revoked since the run was created.
            await store.close_overdue(connection, self._clock())
            await store.tell(connection, *(f"participant:{name}" for name in order.participants))
        return [found[name].task_id for name in order.participants]

    async def ended(
        self, run_id: str, attempt: int, task_ids: Iterable[str]
    ) -> tuple[list[StoredTask], float]:
        """Returns those of the tasks that have ended, and seconds until the next one must.

        Raises `NotFound` for a task that is not the run's, or `FailedPrecondition`.
        """
        wanted = set(task_ids)
        async with self._database.transaction() as connection:
            await self._current(connection, run_id, attempt)
            await store.close_overdue(connection, self._clock())
            found = await store.tasks_of(connection, run_id, wanted)
        missing = wanted - {task.task_id for task in found}
        if missing:
            raise NotFound(
                "RESOURCE_NOT_FOUND", f"{run_id} has no such task", resource=min(missing)
            )
        now = self._clock()
        left = [(task.deadline - now).total_seconds() for task in found if not task.ended]
        return [task for task in found if task.ended], max(0.0, min(left, default=0.0))

    async def answer_of(self, task: StoredTask) -> bytes:
        """Returns what was answered to an ended task; empty unless it was answered."""
        return b"" if task.answer_sha256 is None else await self._blobs.get(task.answer_sha256)

    async def close(self, run_id: str, attempt: int, round: int) -> int:  # noqa: A002
        """Closes what is open of a round; returns how many tasks that were."""
        async with self._database.transaction() as connection:
            run = await require(connection, run_id, lock=True)
            require_current(run, attempt)
            return await store.close_tasks(connection, run_id, round, self._clock())

    async def run(self, *, poll_seconds: float = 1.0) -> None:
        """Ends what is overdue, until cancelled."""
        while True:
            await asyncio.sleep(poll_seconds)
            try:
                await self.sweep()
            except Unavailable as error:
                log.debug("nothing can be ended yet: %s", error.__cause__)

    async def sweep(self) -> int:
        """Ends what nobody will answer or needs any more; returns how many tasks that were."""
        async with self._database.transaction() as connection:
            return await store.close_overdue(connection, self._clock())

    async def _current(self, connection: Connection, run_id: str, attempt: int) -> StoredRun:
        run = await require(connection, run_id)
        require_current(run, attempt)
        return run


def _new_tasks(order: Order, size: int, now: datetime) -> list[NewTask]:
    mechanism = order.mechanism
    return [
        NewTask(
            task_id=f"task-{int(now.timestamp() * 1000):012x}{secrets.token_hex(8)}",
            run_id=order.run_id,
            round=order.round,
            repeat=order.repeat,
            participant=name,
            message_type=order.message_type,
            group_id=order.group_id,
            content_sha256=order.content_sha256,
            content_size_bytes=size,
            answer_bytes_max=order.answer_bytes_max,
            nonce=secrets.token_bytes(16),
            mechanism=mechanism.SerializeToString(deterministic=True) if mechanism else b"",
            steps=mechanism.steps if mechanism else 0,
            created_at=now,
            deadline=now + timedelta(seconds=order.seconds),
        )
        for name in order.participants
    ]


def _require_same(found: StoredTask, task: NewTask) -> None:
    if (found.content_sha256, found.mechanism) != (task.content_sha256, task.mechanism):
        raise AlreadyExists(
            "REQUEST_ID_REUSED",
            f"{task.participant} was given another content in try {task.repeat} of this round",
        )


async def _require_next(connection: Connection, run: StoredRun, number: int) -> None:
    last = (await last_rounds(connection, [run.run_id])).get(run.run_id)
    if last is None or number != last.round + 1:
        raise FailedPrecondition(
            "STATE_CONFLICT",
            f"round {number} is not the next of {run.run_id}",
            resource=run.run_id,
            state=f"round {last.round}" if last else "no round",
        )


async def _require_sites(connection: Connection, order: Order) -> None:
    strangers = set(order.participants) - await store.names_of_run(connection, order.run_id)
    if strangers:
        description = f"{min(strangers)} does not take part in {order.run_id}"
        raise InvalidArgument(
            "FIELD_INVALID",
            description,
            violations=[FieldViolation("header.participants", description)],
        )
