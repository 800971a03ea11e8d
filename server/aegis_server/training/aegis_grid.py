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
from typing import Any, TypeVar

from aegis.errors import DeadlineExceeded
from aegis.v1 import training_pb2, training_pb2_grpc
from aegis_server.training.batches import Batch, Sent, TaskFacts, facts_of, reply_of
from aegis_server.training.flower import (
    Message,
)
from aegis_server.training.headers import groups_of, header_of
from aegis_server.training.own_grid import OwnGrid
from aegis_server.training.relaying import Collected, Relay

log = logging.getLogger(__name__)

Result = TypeVar("Result")
End = training_pb2.CollectAnswersResponse

# How long after the deadline the server may stay away before the round is given up.
_SETTLE_SECONDS = 30.0


class AegisGrid(OwnGrid):
    """The Grid of one run. `stub` belongs to `loop`; `sites` are those of the assignment.

    `delta` is the run's, for the mechanism that a task's header names. Messages that `gather` and
    `send_and_receive` are given no time for have `seconds`. Call it from another thread than the
    loop's.
    """

    def __init__(
        self,
        stub: training_pb2_grpc.CoordinatorServiceStub,
        loop: asyncio.AbstractEventLoop,
        *,
        run_id: str,
        attempt: int,
        sites: Iterable[training_pb2.Site],
        delta: float = 0.0,
        seconds: float = 3600.0,
    ) -> None:
        self._relay = Relay(stub, run_id, attempt)
        self._loop = loop
        self._names = {site.node_id: site.name for site in sites}
        self._delta = delta
        self._seconds = seconds
        self._now = (0, 0)
        # Held by whoever reads or writes a batch or the facts.
        self._changed = threading.Condition()
        self._batches: dict[str, Batch] = {}
        self._facts: dict[int, TaskFacts] = {}
        super().__init__()

    def begin(self, round: int, *, repeat: int = 0) -> None:  # noqa: A002
        """Forgets earlier facts, and says which try of which round the next messages are for.

        That holds for messages that do not say so themselves, see `headers.header_of`.
        """
        self._now = round, repeat
        with self._changed:
            self._facts = {}

    @property
    def facts(self) -> Mapping[int, TaskFacts]:
        """What became of the tasks since `begin`, by node id; open tasks are not among them."""
        with self._changed:
            return dict(self._facts)

    def get_node_ids(self) -> Iterable[int]:
        """Returns the run's sites, in order, whether they are connected or not."""
        return sorted(self._names)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Makes each message a task that is open until the deadline; returns the tasks' ids.

        Raises `AegisError` as DispatchTasks does.
        """
        return list(self._push(messages, self._seconds).tasks)

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
        replies = [reply for task in ended if (reply := reply_of(task)) is not None]
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Returns the answers that arrive within `timeout` seconds, by node."""
        waiting = list(messages)
        seconds = self._seconds if timeout is None else timeout
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

    def _settle(self, batch: Batch) -> None:
        """Closes the round; whatever was answered until then is collected."""
        until = time.monotonic() + _SETTLE_SECONDS
        for number in batch.rounds:
            self._wait(self._relay.close(number, until=until))
        with self._changed:
            if not self._changed.wait_for(lambda: batch.done, until - time.monotonic()):
                raise DeadlineExceeded("PEER_SILENT", "what was closed was not told in time")

    def _push(self, messages: Iterable[Message], seconds: float) -> Batch:
        until = time.monotonic() + seconds + _SETTLE_SECONDS
        batch = Batch()
        for group in groups_of(messages):
            header = header_of(group, now=self._now, delta=self._delta, seconds=seconds)
            header.participants.extend(self._names[m.metadata.dst_node_id] for m in group.messages)
            batch.rounds.add(header.round)
            ids = self._wait(self._relay.dispatch(header, group.data, until=until))
            for task_id, message in zip(ids, group.messages, strict=True):
                batch.tasks[task_id] = Sent(message, len(group.data))
        with self._changed:
            self._batches.update(dict.fromkeys(batch.tasks, batch))
        asyncio.run_coroutine_threadsafe(self._collect(batch, until), self._loop)
        return batch

    async def _collect(self, batch: Batch, until: float) -> None:
        def told(collected: Collected, answer: bytes) -> None:
            task = batch.tasks[collected.task_id]
            with self._changed:
                task.collected, task.answer, task.answered_at = collected, answer, time.time()
                self._facts[task.message.metadata.dst_node_id] = facts_of(task, collected)
                self._changed.notify_all()

        try:
            await self._relay.collect(batch.tasks, told, until=until)
        except BaseException as error:
            with self._changed:
                batch.failure = error
                self._changed.notify_all()

    def _wait(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
