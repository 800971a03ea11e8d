"""Flower's Grid over our own API: messages become durable tasks, and answers come back for them.

Strategies call a Grid from a thread, and the channel lives in an event loop: every call of ours is
handed to that loop. Tasks outlive us: a coordinator that follows one that died sends the same
messages and gets the answers that are already there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from aegis.errors import DeadlineExceeded
from aegis.v1 import participant_pb2, training_pb2, training_pb2_grpc
from aegis_server.training.flower import (
    Error,
    FlowerRun,
    Grid,
    Message,
    RecordDict,
    TaskIdentity,
    content_bytes,
    content_of,
)
from aegis_server.training.relaying import Collected, Header, Relay

log = logging.getLogger(__name__)

Result = TypeVar("Result")
End = training_pb2.CollectAnswersResponse

_CLIENT_APP_RAISED = 2  # Flower's CLIENT_APP_RAISED_EXCEPTION
_SERVER_NODE = 0
# How long after the deadline the server may stay away before the round is given up.
_SETTLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What became of a task, as the server knows it.

    `end` is a CollectAnswersResponse.End, `reason` the kind of an error or why it was refused,
    `steps` the private steps it may have cost, `seconds` from when it was made to its end.
    """

    end: int
    reason: str
    steps: int
    seconds: float
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True, slots=True)
class _Order:
    round: int
    repeat: int
    answer_bytes_max: int
    deadline_seconds: float
    mechanism: participant_pb2.Mechanism | None


@dataclass(slots=True)
class _Task:
    message: Message
    bytes_sent: int
    collected: Collected | None = None
    answer: bytes = b""


class _Batch:
    """What was pushed together, by task id."""

    def __init__(self) -> None:
        self.tasks: dict[str, _Task] = {}
        self.failure: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self.failure is not None or all(task.collected for task in self.tasks.values())

    @property
    def answered(self) -> int:
        """How many sites have sent something to aggregate."""
        ends = [task.collected.end for task in self.tasks.values() if task.collected]
        return ends.count(End.END_ANSWERED)


class AegisGrid(Grid):
    """The Grid of one run. `stub` belongs to `loop`; `sites` are those of the assignment.

    Call it from another thread than the loop's, and `begin` before the messages of a try go out.
    """

    def __init__(
        self,
        stub: training_pb2_grpc.CoordinatorServiceStub,
        loop: asyncio.AbstractEventLoop,
        *,
        run_id: str,
        attempt: int,
        sites: Iterable[training_pb2.Site],
    ) -> None:
        self._relay = Relay(stub, run_id, attempt)
        self._loop = loop
        self._names = {site.node_id: site.name for site in sites}
        self._order: _Order | None = None
        # Held by whoever reads or writes a batch or the facts.
        self._changed = threading.Condition()
        self._batches: dict[str, _Batch] = {}
        self._facts: dict[int, TaskFacts] = {}
        self.set_run(FlowerRun.create_empty(run_id=1))

    def begin(
        self,
        round: int,  # noqa: A002
        *,
        repeat: int,
        answer_bytes_max: int,
        deadline_seconds: float,
        mechanism: participant_pb2.Mechanism | None = None,
    ) -> None:
        """Says which try of which round the next messages are for, and forgets earlier facts.

        `deadline_seconds` holds for messages whose sender names no timeout.
        """
        self._order = _Order(round, repeat, answer_bytes_max, deadline_seconds, mechanism)
        self._facts = {}

    @property
    def facts(self) -> Mapping[int, TaskFacts]:
        """What became of the tasks since `begin`, by node id; open tasks are not among them."""
        with self._changed:
            return dict(self._facts)

    def set_run(self, run: FlowerRun) -> None:
        """Takes on the identity every new `Message` of this process will carry."""
        self._run = run
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = (
            run.run_id,
            _SERVER_NODE,
            0,
        )

    @property
    def run(self) -> FlowerRun:
        """The run this process works for."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Returns a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Returns the run's sites, in order, whether they are connected or not."""
        return sorted(self._names)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Makes each message a task that is open until the deadline; returns the tasks' ids.

        Raises `AegisError` as DispatchTasks does.
        """
        return list(self._push(messages, self._ordered.deadline_seconds).tasks)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Returns the answers that have arrived, by node, and forgets them.

        Raises what ended the collecting of them.
        """
        ended = []
        with self._changed:
            for task_id in message_ids:
                batch = self._batches.get(task_id)
                if batch is not None and batch.failure is not None:
                    raise batch.failure
                if batch is not None and batch.tasks[task_id].collected:
                    ended.append(batch.tasks[task_id])
                    del self._batches[task_id]
        replies = [reply for task in ended if (reply := _reply(task)) is not None]
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Returns the answers that arrive within `timeout` seconds, by node."""
        waiting = list(messages)
        seconds = self._ordered.deadline_seconds if timeout is None else timeout
        return self.gather(waiting, timeout=seconds, enough=len(waiting), grace=seconds)

    def gather(
        self, messages: Iterable[Message], *, timeout: float, enough: int, grace: float
    ) -> list[Message]:
        """Returns the answers, by node: all of them, or what came in time.

        Once `enough` sites have answered, the others have `grace` seconds more; nobody has more
        than `timeout`. Then the round is closed: later answers count no longer, and sites are told.
        A site that failed or refused answers with an error; one that did not answer is not in the
        list. Raises `AegisError` as DispatchTasks does, `Unavailable` when the server stays away.
        """
        began = time.monotonic()
        batch = self._push(messages, timeout)
        with self._changed:
            self._changed.wait_for(
                lambda: batch.done or batch.answered >= enough, began + timeout - time.monotonic()
            )
            left = min(grace, began + timeout - time.monotonic())
            self._changed.wait_for(lambda: batch.done, left)
        if not batch.done:
            self._settle(batch)
        log.info("%.2f s for %d messages", time.monotonic() - began, len(batch.tasks))
        return list(self.pull_messages(batch.tasks))

    def _settle(self, batch: _Batch) -> None:
        """Closes the round; whatever was answered until then is collected."""
        until = time.monotonic() + _SETTLE_SECONDS
        self._wait(self._relay.close(self._ordered.round, until=until))
        with self._changed:
            if not self._changed.wait_for(lambda: batch.done, until - time.monotonic()):
                raise DeadlineExceeded("DEADLINE_REQUIRED", "what was closed was not told in time")

    def _push(self, messages: Iterable[Message], seconds: float) -> _Batch:
        until = time.monotonic() + seconds + _SETTLE_SECONDS
        batch = _Batch()
        for (message_type, group_id, data), group in _by_content(messages).items():
            header = self._header(message_type, group_id, seconds)
            header.participants.extend(self._names[m.metadata.dst_node_id] for m in group)
            ids = self._wait(self._relay.dispatch(header, data, until=until))
            for task_id, message in zip(ids, group, strict=True):
                batch.tasks[task_id] = _Task(message, len(data))
        with self._changed:
            self._batches.update(dict.fromkeys(batch.tasks, batch))
        asyncio.run_coroutine_threadsafe(self._collect(batch, until), self._loop)
        return batch

    def _header(self, message_type: str, group_id: str, seconds: float) -> Header:
        order = self._ordered
        header = Header(
            round=order.round,
            repeat=order.repeat,
            message_type=message_type,
            group_id=group_id,
            mechanism=order.mechanism,
            answer_bytes_max=order.answer_bytes_max,
        )
        header.time_left.FromNanoseconds(int(seconds * 1e9))
        return header

    @property
    def _ordered(self) -> _Order:
        if self._order is None:
            raise RuntimeError("begin() says which round messages are for")
        return self._order

    async def _collect(self, batch: _Batch, until: float) -> None:
        def told(collected: Collected, answer: bytes) -> None:
            task = batch.tasks[collected.task_id]
            with self._changed:
                task.collected, task.answer = collected, answer
                self._facts[task.message.metadata.dst_node_id] = _facts(task, collected)
                self._changed.notify_all()

        try:
            await self._relay.collect(batch.tasks, told, until=until)
        except BaseException as error:
            with self._changed:
                batch.failure = error
                self._changed.notify_all()

    def _wait(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _by_content(messages: Iterable[Message]) -> dict[tuple[str, str, bytes], list[Message]]:
    # Strategies give every node the same record: it is serialised once, and sent once.
    serialised: dict[int, bytes] = {}
    groups: dict[tuple[str, str, bytes], list[Message]] = {}
    for message in list(messages):
        content, metadata = message.content, message.metadata
        if id(content) not in serialised:
            serialised[id(content)] = content_bytes(content)
        key = metadata.message_type, metadata.group_id, serialised[id(content)]
        groups.setdefault(key, []).append(message)
    return groups


def _facts(task: _Task, collected: Collected) -> TaskFacts:
    return TaskFacts(
        end=collected.end,
        reason=collected.reason,
        steps=collected.steps,
        seconds=collected.seconds,
        bytes_sent=task.bytes_sent,
        bytes_received=collected.size_bytes,
    )


def _reply(task: _Task) -> Message | None:
    collected = task.collected
    if collected is None or collected.end in (End.END_MISSED, End.END_CANCELLED):
        return None
    reason = collected.reason
    if collected.end == End.END_ANSWERED:
        try:
            return Message(content_of(task.answer), reply_to=task.message)
        except ValueError:
            reason = "UPDATE_FORMAT_INVALID"
    return Message(Error(_CLIENT_APP_RAISED, reason), reply_to=task.message)
