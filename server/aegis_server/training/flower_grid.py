"""Flower's Grid over the embedded SuperLink, for a coordinator that is the run's ServerApp.

Nodes go by the ids of our participants: Flower's own are known in here only. Who has sent an answer
was settled at the door of the sites, by certificate and node key; that it answers a message of this
run, and the one it was sent, by the SuperLink.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Self

from aegis_server.training.flower import Message, TaskIdentity
from aegis_server.training.superlink.executing import Claim
from aegis_server.training.superlink.internals import (
    HeartbeatSender,
    HttpGrid,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SubStatus,
    make_task_heartbeat_fn_http,
    run_from_proto,
)

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.25


class FlowerGrid(HttpGrid):
    """The Grid of one run whose ServerApp task is ours; `nodes` has Flower's node id for each of
    our participants' node ids.

    Use it as a context: it keeps the task alive, and ends the run. Call it from one thread.
    """

    def __init__(self, address: str, claim: Claim, nodes: Mapping[int, int]) -> None:
        super().__init__(runtime_api_address=address, insecure=True, token=claim.token)
        self._theirs = dict(nodes)
        # Our node id for each message that is on its way.
        self._asked: dict[str, int] = {}
        self._heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(self._runtime_client))

    def __enter__(self) -> Self:
        """Takes the run on; every `Message` of this process then carries its identity."""
        given = self._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = (
            given.run.run_id,
            given.context.node_id,
            given.task_id,
        )
        self.set_run(run_from_proto(given.run))
        self._heartbeat.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Ends the run in Flower's book; sites are asked nothing more."""
        self._heartbeat.stop()
        status = SubStatus.COMPLETED if error is None else SubStatus.FAILED
        self._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=status))
        self.close()

    def get_node_ids(self) -> Iterable[int]:
        """Returns the run's participants, in order, whether they are connected or not."""
        return sorted(self._theirs)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hands each message to the SuperLink; returns ids to pull the answers with.

        The id is empty where the SuperLink does not know the node any more.
        """
        waiting = list(messages)
        asked = [message.metadata.dst_node_id for message in waiting]
        for message in waiting:
            message.metadata.dst_node_id = self._theirs[message.metadata.dst_node_id]
        ids = [message_id or "" for message_id in super().push_messages(waiting)]
        self._asked |= {i: node for i, node in zip(ids, asked, strict=True) if i}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Returns the answers that have arrived, by node; the SuperLink forgets them.

        An error in the name of a node that is gone comes from the SuperLink itself.
        """
        replies = []
        for reply in super().pull_messages(message_ids):
            asked = self._asked.pop(reply.metadata.reply_to_message_id, None)
            if asked is None:
                continue
            if reply.metadata.src_node_id in (self._theirs[asked], self.node.node_id):
                reply.metadata.__dict__["_src_node_id"] = asked
                replies.append(reply)
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Returns the answers that arrive within `timeout` seconds, by node."""
        waiting = list(messages)
        seconds = float("inf") if timeout is None else timeout
        return self.gather(waiting, timeout=seconds, enough=len(waiting), grace=0.0)

    def gather(
        self, messages: Iterable[Message], *, timeout: float, enough: int, grace: float
    ) -> list[Message]:
        """Returns the answers of all, by node; of fewer when time runs out.

        Once `enough` have answered the others have at most `grace` seconds more, and nobody has
        more than `timeout`: what is not taken up by then, no site will see.
        """
        waiting = list(messages)
        if timeout < float("inf"):
            for message in waiting:
                message.metadata.ttl = timeout
        ends = time.monotonic() + timeout
        open_ids = {message_id for message_id in self.push_messages(waiting) if message_id}
        replies: list[Message] = []
        while open_ids and time.monotonic() < ends:
            for reply in self.pull_messages(sorted(open_ids)):
                open_ids.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
                if len(replies) == enough:
                    ends = min(ends, time.monotonic() + grace)
            if open_ids:
                time.sleep(max(0.0, min(_POLL_SECONDS, ends - time.monotonic())))
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)
