"""What a message says about the task it becomes, read from its content.

Sites read the same from the same content and refuse a task whose header says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aegis.v1 import participant_pb2
from aegis_server.training.flower import Message, RecordDict, content_bytes
from aegis_server.training.relaying import Header

_MIB = 1024 * 1024
# The most the server takes, whatever it is told.
_ANSWER_BYTES_MAX = 192 * _MIB


@dataclass(frozen=True, slots=True)
class Group:
    """Messages with one content, and that content as bytes."""

    data: bytes
    messages: list[Message]


def groups_of(messages: Iterable[Message]) -> list[Group]:
    """Returns the messages by content, type and group, each content serialised once.

    Strategies give every node the same record.
    """
    # By identity, which is safe while the messages are held: no two of them share an id by chance.
    held, serialised = list(messages), dict[int, bytes]()
    groups: dict[tuple[str, str, bytes], Group] = {}
    for message in held:
        content, metadata = message.content, message.metadata
        if id(content) not in serialised:
            serialised[id(content)] = content_bytes(content)
        data = serialised[id(content)]
        key = metadata.message_type, metadata.group_id, data
        groups.setdefault(key, Group(data, [])).messages.append(message)
    return list(groups.values())


def header_of(group: Group, *, now: tuple[int, int], delta: float, seconds: float) -> Header:
    """Returns the header of a group's tasks, without participants.

    `now` are round and repeat of messages whose config does not say "server-round" or "repeat". The
    mechanism is that of the config, where it names one; an answer may be twice as large as the
    content, because an update has the shape of the model it changes.
    """
    first = group.messages[0]
    config = _config(first.content)
    header = Header(
        round=int(config.get("server-round", now[0])),
        repeat=int(config.get("repeat", now[1])),
        message_type=first.metadata.message_type,
        group_id=first.metadata.group_id,
        mechanism=_mechanism(config, delta),
        answer_bytes_max=min(2 * len(group.data) + _MIB, _ANSWER_BYTES_MAX),
    )
    header.time_left.FromNanoseconds(int(seconds * 1e9))
    return header


def _config(content: RecordDict) -> dict[str, Any]:
    records = list(content.config_records.values())
    return dict(records[0]) if len(records) == 1 else {}


def _mechanism(config: dict[str, Any], delta: float) -> participant_pb2.Mechanism | None:
    if config.get("simulation") or not config.get("noise-multiplier"):
        return None
    return participant_pb2.Mechanism(
        noise_multiplier=config["noise-multiplier"],
        sample_rate=config["sample-rate"],
        steps=config["steps"],
        clip_norm=config["clip-norm"],
        delta=delta,
    )
