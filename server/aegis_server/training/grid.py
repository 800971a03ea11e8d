"""Flower's Grid within one process: every node is a ClientApp called by a thread.

A message that was not answered at the deadline is forgotten: its thread cannot be stopped, so it
ends whenever it ends, and its answer goes nowhere. Threads are daemons, so that a stuck ClientApp
does not keep the process alive.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from copy import deepcopy

from aegis_server.training.flower import (
    ClientApp,
    Context,
    Error,
    FlowerRun,
    Grid,
    Message,
    RecordDict,
    TaskIdentity,
    UserConfig,
)

log = logging.getLogger(__name__)

_CLIENT_APP_RAISED = 2  # Flower's CLIENT_APP_RAISED_EXCEPTION
_SERVER_NODE = 0


class _Node:
    def __init__(self, app: ClientApp, context: Context) -> None:
        self.app = app
        self.context = context
        self.busy = threading.Lock()


class LocalGrid(Grid):
    """A Grid over nodes in this process.

    `nodes` maps each node id to its ClientApp and node config; at most `workers` of them work at
    the same moment.
    """

    def __init__(
        self, nodes: Mapping[int, tuple[ClientApp, UserConfig]], *, workers: int = 2
    ) -> None:
        self._nodes = {
            node_id: _Node(app, Context(0, node_id, config, RecordDict(), {}))
            for node_id, (app, config) in nodes.items()
        }
        self._slots = threading.Semaphore(workers)
        self._changed = threading.Condition()
        self._wanted: dict[str, Message | None] = {}
        self.set_run(FlowerRun.create_empty(run_id=1))

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
        """Returns every node, in order."""
        return sorted(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hands each message to its node and returns ids to pull the answers with."""
        ids = []
        for message in messages:
            # Strategies give every node the same record; a node must not change it for the others.
            message.content = deepcopy(message.content)
            ids.append(uuid.uuid4().hex)
            with self._changed:
                self._wanted[ids[-1]] = None
            threading.Thread(target=self._serve, args=(ids[-1], message), daemon=True).start()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Returns the answers that have arrived, by node, and forgets them."""
        with self._changed:
            arrived = [i for i in message_ids if self._wanted.get(i) is not None]
            replies = [reply for i in arrived if (reply := self._wanted.pop(i)) is not None]
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Returns the answers that arrive within `timeout` seconds, by node."""
        waiting = list(messages)
        return self.gather(waiting, timeout=timeout, enough=len(waiting), grace=0.0)

    def gather(
        self, messages: Iterable[Message], *, timeout: float | None, enough: int, grace: float
    ) -> list[Message]:
        """Returns the answers, by node: all of them, or what came in time.

        Once `enough` nodes have answered, the others have `grace` seconds more; nobody has more
        than `timeout`. A node that failed answers with an error, which is not enough of anything.
        """
        ids = list(self.push_messages(messages))
        began = time.monotonic()
        until = began + (threading.TIMEOUT_MAX if timeout is None else timeout)

        def answered() -> list[bool]:
            return [reply.has_content() for i in ids if (reply := self._wanted[i]) is not None]

        def done() -> bool:
            return len(answered()) == len(ids)

        with self._changed:
            self._changed.wait_for(lambda: done() or sum(answered()) >= enough, _left(until))
            self._changed.wait_for(done, min(grace, _left(until)))
        log.info("%.2f s for %d messages", time.monotonic() - began, len(ids))
        replies = list(self.pull_messages(ids))
        with self._changed:
            for i in ids:
                self._wanted.pop(i, None)
        return replies

    def _serve(self, message_id: str, message: Message) -> None:
        node = self._nodes[message.metadata.dst_node_id]
        with node.busy, self._slots:
            if message_id not in self._wanted:
                return  # the deadline passed while it waited for its turn
            reply = _answer(node, message)
        with self._changed:
            if message_id in self._wanted:
                self._wanted[message_id] = reply
                self._changed.notify_all()


def _left(until: float) -> float:
    return min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)


def _answer(node: _Node, message: Message) -> Message:
    try:
        return node.app(message, node.context)
    except Exception as error:
        # A site's own words may quote its data: outside, only the kind of error is told.
        log.exception("node %d failed", node.context.node_id)
        return Message(Error(_CLIENT_APP_RAISED, type(error).__name__), reply_to=message)
