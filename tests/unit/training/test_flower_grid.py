"""FlowerGrid and SuperNodes that lie: the objects are Flower's, the SuperLink is a dictionary."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from aegis_server.training.flower import FlowerRun, TaskIdentity
from aegis_server.training.flower_grid import FlowerGrid
from aegis_server.training.superlink.executing import Claim

# Flower's node id of each of our participants'.
NODES = {1001: 77, 1002: 88}


@dataclass
class Link:
    """What a SuperLink has: replies it was announced, and their objects."""

    replies: list[tuple[Any, ObjectTree]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    sent_to: list[int] = field(default_factory=list)

    def PushMessages(self, request: Any) -> Any:
        """Takes the messages, and wants none of their objects."""
        ids = [message.metadata.message_id for message in request.messages_list]
        self.sent_to += [message.metadata.dst_node_id for message in request.messages_list]
        return SimpleNamespace(message_ids=ids, session_id="", objects_to_push=[])

    def PushObject(self, request: Any) -> Any:
        """Is not asked for."""

    def PullMessages(self, request: Any) -> Any:
        """Gives each reply once."""
        wanted = set(request.message_ids)
        found = [r for r in self.replies if r[0].metadata.reply_to_message_id in wanted]
        self.replies = [each for each in self.replies if each not in found]
        return SimpleNamespace(
            messages_list=[message for message, _ in found],
            message_object_trees=[tree for _, tree in found],
        )

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:
        """What was announced is found, and available once it is there."""
        data = self.objects.get(request.object_id)
        return PullObjectResponse(
            object_found=True, object_available=data is not None, object_content=data or b""
        )

    def ConfirmMessageReceived(self, request: Any) -> None:
        """Forgets nothing."""

    def reply(self, asked: Message, node: int, *, content: RecordDict | Error | None = None) -> Any:
        """A reply of a node, announced as the SuperLink checks it."""
        reply = Message(content or _record(0.5), reply_to=asked)
        reply.metadata.__dict__["_src_node_id"] = node
        reply.metadata.__dict__["_message_id"] = reply.object_id
        announced = message_to_proto(remove_content_from_message(reply))
        self.replies.append((announced, get_object_tree(reply)))
        found = get_all_nested_objects(reply)
        return announced, {name: each.deflate() for name, each in found.items()}


def _record(value: float, size: int = 4) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord({"w": Array(np.full(size, value, np.float32))})})


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def grid(link: Link) -> FlowerGrid:
    grid = FlowerGrid("127.0.0.1:1", Claim(1, "token"), NODES)
    grid.set_run(FlowerRun.create_empty(run_id=1))
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 0
    grid._client = link  # type: ignore[assignment]
    return grid


def _ask(grid: FlowerGrid) -> tuple[list[Message], list[str]]:
    messages = [Message(_record(0.0), node, "train") for node in NODES]
    return messages, grid.push_messages(messages)


def test_messages_are_still_ours_when_they_have_been_sent(grid: FlowerGrid, link: Link) -> None:
    """Who asks tells by our ids who has not answered; only the SuperLink gets Flower's."""
    messages, _ = _ask(grid)
    assert [message.metadata.dst_node_id for message in messages] == [1001, 1002]
    assert link.sent_to == [77, 88]


def test_a_reply_that_was_announced_and_not_brought_holds_up_nobody(
    grid: FlowerGrid, link: Link
) -> None:
    """The other's is there with this poll, and this one when it is whole."""
    messages, ids = _ask(grid)
    _, late = link.reply(messages[0], 77)
    _, whole = link.reply(messages[1], 88)
    link.objects |= whole
    began = time.monotonic()
    assert [reply.metadata.src_node_id for reply in grid.pull_messages(ids)] == [1002]
    assert time.monotonic() - began < 1
    link.objects |= late
    (reply,) = grid.pull_messages(ids)
    assert reply.metadata.src_node_id == 1001
    assert reply.content["arrays"]["w"].numpy().tolist() == [0.5] * 4  # type: ignore[index]


def test_a_reply_that_cannot_be_unpacked_fails_its_sender_only(
    grid: FlowerGrid, link: Link
) -> None:
    """The bytes have the name they should have, and are nothing."""
    messages, ids = _ask(grid)
    _, bad = link.reply(messages[0], 77)
    _, good = link.reply(messages[1], 88)
    link.objects |= dict.fromkeys(bad, b"RecordDict 3\0...") | good
    one, two = grid.pull_messages(ids)
    assert (one.metadata.src_node_id, one.error.reason) == (1001, "UPDATE_FORMAT_INVALID")
    assert not two.has_error()


def test_a_reply_speaks_for_whom_the_superlink_says(grid: FlowerGrid, link: Link) -> None:
    """The object says it is the other site's answer, the SuperLink knows better."""
    messages, ids = _ask(grid)
    announced, forged = link.reply(messages[1], 88, content=_record(9.0))
    announced.metadata.src_node_id = 77
    announced.metadata.reply_to_message_id = ids[0]
    link.objects |= forged
    (reply,) = grid.pull_messages(ids)
    assert reply.metadata.src_node_id == 1001
    assert reply.metadata.reply_to_message_id == ids[0]


def test_a_reply_is_bounded_by_what_was_asked(grid: FlowerGrid, link: Link) -> None:
    """Two megabytes for a model of sixteen bytes."""
    messages, ids = _ask(grid)
    _, large = link.reply(messages[0], 77, content=_record(1.0, size=500_000))
    link.objects |= large
    (reply,) = grid.pull_messages(ids)
    assert reply.error.reason == "REQUEST_TOO_LARGE"


def test_errors_are_not_enough_of_anything(grid: FlowerGrid, link: Link) -> None:
    """One fails at once; the other has its time all the same, whatever clock it has."""

    def push(messages: list[Message]) -> list[str]:
        ids = FlowerGrid.push_messages(grid, messages)
        _, failed = link.reply(messages[0], 77, content=Error(2, "no"))
        _, good = link.reply(messages[1], 88)
        link.objects |= failed
        late.update(good)
        return ids

    late: dict[str, bytes] = {}
    sleeping = iter([late])

    def pull(object_id: str) -> PullObjectResponse:
        found = link.PullObject(PullObjectRequest(object_id=object_id))
        link.objects |= next(sleeping, {})
        return found

    grid.push_messages, grid._pull = push, pull  # type: ignore[assignment, method-assign]
    messages = [Message(_record(0.0), node, "train") for node in NODES]
    replies = grid.gather(messages, timeout=10, enough=1, grace=0.0)
    assert [reply.has_error() for reply in replies] == [True, False]
    assert abs(replies[1].metadata.created_at - time.time()) < 60
