"""Flower's Grid within one process: nodes are ClientApps, called by a few threads in turn.

However many nodes there are, as many copies of a message are in memory as there are threads. A
message that was not answered at the deadline is forgotten: its thread cannot be stopped, so it ends
whenever it ends, and its answer goes nowhere. Threads are daemons, so that a stuck ClientApp does
not keep the process alive.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from copy import deepcopy

from aegis_server.training.flower import (
    CLIENT_APP_RAISED,
    SITE_REFUSED,
    ClientApp,
    Context,
    Error,
    Message,
    RecordDict,
    UserConfig,
)
from aegis_server.training.own_grid import OwnGrid

log = logging.getLogger(__name__)


class _Node:
    def __init__(self, app: ClientApp, context: Context) -> None:
        self.app = app
        self.context = context
        self.busy = False


class LocalGrid(OwnGrid):
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
        self._workers = workers
        # Held by whoever reads or writes what follows.
        self._changed = threading.Condition()
        self._wanted: dict[str, Message | None] = {}
        self._queue: deque[tuple[str, Message]] = deque()
        self._working = 0
        super().__init__()

    def get_node_ids(self) -> Iterable[int]:
        """Returns every node, in order."""
        return sorted(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hands each message to its node and returns ids to pull the answers with."""
        ids = []
        with self._changed:
            for message in messages:
                ids.append(uuid.uuid4().hex)
                self._wanted[ids[-1]] = None
                self._queue.append((ids[-1], message))
            more = min(self._workers - self._working, len(ids))
            self._working += max(0, more)
        for _ in range(more):
            threading.Thread(target=self._work, daemon=True).start()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Returns the answers that have arrived, by node, and forgets them."""
        with self._changed:
            arrived = [i for i in message_ids if self._wanted.get(i) is not None]
            replies = [reply for i in arrived if (reply := self._wanted.pop(i)) is not None]
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Returns the answers that arrive within `timeout` seconds, by node."""
        return self._receive(messages, timeout=timeout)

    def gather(
        self, messages: Iterable[Message], *, timeout: float, enough: int, grace: float
    ) -> list[Message]:
        """Returns the answers that arrive in time, by node.

        All are waited for; once `enough` nodes have answered without an error, at most `grace`
        seconds more; never longer than `timeout` seconds.
        """
        return self._receive(messages, timeout=timeout, enough=enough, grace=grace)

    def _receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None,
        enough: int | None = None,
        grace: float = 0.0,
    ) -> list[Message]:
        ids = list(self.push_messages(messages))
        began = time.monotonic()
        end = math.inf if timeout is None else began + timeout
        with self._changed:
            while any(self._wanted[i] is None for i in ids):
                now = time.monotonic()
                if enough is not None and self._answered(ids) >= enough:
                    end, enough = min(end, now + grace), None
                if now >= end:
                    break
                self._changed.wait(None if end == math.inf else end - now)
        log.info("%.2f s for %d messages", time.monotonic() - began, len(ids))
        replies = self.pull_messages(ids)
        with self._changed:
            for i in ids:
                self._wanted.pop(i, None)
            # Nobody waits for what has not begun.
            self._queue = deque(each for each in self._queue if each[0] in self._wanted)
        return replies

    def _answered(self, ids: Iterable[str]) -> int:
        replies = (self._wanted[i] for i in ids)
        return sum(reply is not None and not reply.has_error() for reply in replies)

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            message_id, message, node = taken
            # Strategies give every node the same record; a node must not change it for the others.
            message.content = deepcopy(message.content)
            reply = _answer(node, message)
            with self._changed:
                node.busy = False
                if message_id in self._wanted:
                    self._wanted[message_id] = reply
                    self._changed.notify_all()

    def _next(self) -> tuple[str, Message, _Node] | None:
        """Takes the first message whose node is free; None ends a thread.

        What waits for a node that is busy is taken by the thread that is there now.
        """
        with self._changed:
            for index, (message_id, message) in enumerate(self._queue):
                node = self._nodes[message.metadata.dst_node_id]
                if message_id in self._wanted and not node.busy:
                    del self._queue[index]
                    node.busy = True
                    return message_id, message, node
            self._working -= 1
            return None


def _answer(node: _Node, message: Message) -> Message:
    try:
        return node.app(message, node.context)
    except PermissionError as refusal:
        return Message(Error(SITE_REFUSED, type(refusal).__name__), reply_to=message)
    except Exception as error:
        # A site's own words may quote its data: outside, only the kind of error is told.
        log.exception("node %d failed", node.context.node_id)
        return Message(Error(CLIENT_APP_RAISED, type(error).__name__), reply_to=message)
