"""The names of Flower that coordinators use, in one place; nothing else in the server imports it.

Flower 1.41 reads its switches when it is imported, and keeps the identity of a run in a class
attribute: one run a process.
"""

from __future__ import annotations

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictMessage
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.run import Run as FlowerRun
from flwr.supercore.task_identity import TaskIdentity

# Codes of `Error`: Flower's own for an application that raised, and ours for a site that will not,
# or will not any more: it had begun, so what it was asked for is spent.
CLIENT_APP_RAISED = 2
SITE_REFUSED = 1_000
SITE_GAVE_UP = 1_001

__all__ = [
    "CLIENT_APP_RAISED",
    "SITE_GAVE_UP",
    "SITE_REFUSED",
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Error",
    "FedAvg",
    "FlowerRun",
    "Grid",
    "Message",
    "MessageType",
    "MetricRecord",
    "RecordDict",
    "ServerApp",
    "TaskIdentity",
    "UserConfig",
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
