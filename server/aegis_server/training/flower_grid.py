"""Flower's Grid over the embedded SuperLink, for a coordinator that is the run's ServerApp.

Nodes go by the ids of our participants: Flower's own are known in here only. Who has sent an answer
was settled at the door of the sites, by certificate and node key; that it answers a message of this
run, and the one it was sent, by the SuperLink.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from aegis_server.training.asking import size_of
from aegis_server.training.flower import Error, Message, RecordDict, TaskIdentity
from aegis_server.training.superlink.arriving import Arriving
from aegis_server.training.superlink.executing import Claim
from aegis_server.training.superlink.internals import (
    ConfirmMessageReceivedRequest,
    HeartbeatSender,
    HttpGrid,
    MessageMessage,
    Metadata,
    PullAppMessagesRequest,
    PullObjectRequest,
    PullObjectResponse,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SubStatus,
    make_message,
    make_task_heartbeat_fn_http,
    run_from_proto,
)

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
_ANSWER_BYTES_MORE = 1024 * 1024
_ANSWER_BYTES_MAX = 192 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom of our participants a message asks, and how many bytes its answer may have."""

    node_id: int
    bytes_max: int


class FlowerGrid(HttpGrid):
    """The Grid of one run whose ServerApp task is ours; `nodes` has Flower's node id for each of
    our participants' node ids.

    Use it as a context: it keeps the task alive, and ends the run. Call it from one thread.
    """

    def __init__(self, address: str, claim: Claim, nodes: Mapping[int, int]) -> None:
        super().__init__(runtime_api_address=address, insecure=True, token=claim.token)
        self._theirs = dict(nodes)
        # What is on its way, by the id of the message that asks.
        self._asked: dict[str, Asked] = {}
        self._arriving: dict[str, Arriving] = {}
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
        asked = [Asked(each.metadata.dst_node_id, _answer_bytes_max(each)) for each in waiting]
        for message in waiting:
            message.metadata.dst_node_id = self._theirs[message.metadata.dst_node_id]
        try:
            ids = [message_id or "" for message_id in super().push_messages(waiting)]
        finally:
            # Who asks goes on to know whom by our ids.
            for message, each in zip(waiting, asked, strict=True):
                message.metadata.dst_node_id = each.node_id
        self._asked |= {i: each for i, each in zip(ids, asked, strict=True) if i}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Returns the answers that have arrived whole, by node; the SuperLink forgets them.

        An error in the name of a node that is gone comes from the SuperLink itself. Raises
        httpx.HTTPError when the SuperLink cannot be reached.
        """
        wanted = [message_id for message_id in message_ids if message_id in self._asked]
        self._look([message_id for message_id in wanted if message_id not in self._arriving])
        replies = []
        for message_id in wanted:
            arriving = self._arriving.get(message_id)
            body = None if arriving is None else arriving.fetch(self._pull)
            if arriving is None or body is None:
                continue
            del self._arriving[message_id]
            asked = self._asked.pop(message_id)
            self._runtime_client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=self.node,
                    run_id=self.run.run_id,
                    message_object_id=arriving.announced.metadata.message_id,
                )
            )
            replies.append(_reply(body, arriving.announced, asked.node_id))
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def _look(self, message_ids: list[str]) -> None:
        if not message_ids:
            return
        found = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
        for message, tree in zip(found.messages_list, found.message_object_trees, strict=True):
            # As the SuperLink has it, which has checked who sent it; the reply may say otherwise.
            said = message.metadata
            asked = self._asked.get(said.reply_to_message_id)
            if asked is None or said.reply_to_message_id in self._arriving:
                continue
            if said.src_node_id in (self._theirs[asked.node_id], self.node.node_id):
                self._arriving[said.reply_to_message_id] = Arriving(message, tree, asked.bytes_max)

    def _pull(self, object_id: str) -> PullObjectResponse:
        return self._runtime_client.PullObject(
            PullObjectRequest(node=self.node, run_id=self.run.run_id, object_id=object_id)
        )

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

        Once `enough` have answered, and not with an error, the others have at most `grace` seconds
        more, and nobody has more than `timeout`: what is not taken up by then, no site will see.
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
            if enough <= sum(not reply.has_error() for reply in replies):
                # Never later than it was: the grace begins with the last who was needed.
                ends = min(ends, time.monotonic() + grace)
            if open_ids:
                time.sleep(max(0.0, min(_POLL_SECONDS, ends - time.monotonic())))
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)


def _answer_bytes_max(message: Message) -> int:
    # An update has the shape of the model it changes.
    return min(2 * size_of(message) + _ANSWER_BYTES_MORE, _ANSWER_BYTES_MAX)


def _reply(body: RecordDict | Error, announced: MessageMessage, node_id: int) -> Message:
    said = announced.metadata
    metadata = Metadata(
        run_id=said.run_id,
        message_id=said.message_id,
        src_node_id=node_id,
        dst_node_id=said.dst_node_id,
        reply_to_message_id=said.reply_to_message_id,
        group_id=said.group_id,
        # When it was whole here: a clock elsewhere may show anything.
        created_at=time.time(),
        ttl=said.ttl,
        message_type=said.message_type,
    )
    if isinstance(body, Error):
        return make_message(metadata=metadata, error=body)
    return make_message(metadata=metadata, content=body)
