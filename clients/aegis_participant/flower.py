"""The names of Flower that a site's program uses, and what messages hold as bytes."""

from __future__ import annotations

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictMessage
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Message",
    "Metadata",
    "MetricRecord",
    "RecordDict",
    "TaskIdentity",
    "content_bytes",
    "content_of",
]


def content_bytes(content: RecordDict) -> bytes:
    """Returns what a message holds as bytes; equal contents have equal bytes."""
    data: bytes = recorddict_to_proto(content).SerializeToString(deterministic=True)
    return data


def content_of(data: bytes) -> RecordDict:
    """Returns what the bytes hold; raises ValueError when they are no content.

    Arrays stay bytes: who reads one decides how far to trust it.
    """
    try:
        return recorddict_from_proto(RecordDictMessage.FromString(data))
    except Exception as error:
        # Flower and protobuf promise no error in particular for what a stranger sent.
        raise ValueError(f"no content: {type(error).__name__}") from error
