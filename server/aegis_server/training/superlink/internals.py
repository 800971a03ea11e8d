"""The parts of Flower 1.41 and uvicorn that are not their public face, in one place.

They may move with any release, so Flower is pinned to 1.41 and `tests/unit/training/superlink`
holds each of them to what we rely on.
"""

from __future__ import annotations

from fastapi import FastAPI
from flwr.app import Metadata
from flwr.app.message import make_message
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
)
from flwr.proto.message_pb2 import Message as MessageMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
)
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import HttpGrid
from flwr.superlink.main import create_app
from httpx import HTTPStatusError
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = [
    "FLEET_HTTP_PUBLIC_KEY_HEADER",
    "AccountInfo",
    "AcquireTaskRequest",
    "ConfirmMessageReceivedRequest",
    "ControlHttpClient",
    "FastAPI",
    "H11Protocol",
    "HTTPStatusError",
    "HeartbeatSender",
    "HttpGrid",
    "ListNodesRequest",
    "ListRunsRequest",
    "MessageMessage",
    "Metadata",
    "NoOpControlAuthnPlugin",
    "NodeInfo",
    "ObjectTree",
    "ProtobufCall",
    "ProtobufRequestContext",
    "PullAppMessagesRequest",
    "PullObjectRequest",
    "PullObjectResponse",
    "PullTaskInputRequest",
    "PushMessagesRequest",
    "PushTaskOutputRequest",
    "RegisterNodeRequest",
    "RuntimeHttpClient",
    "RuntimeTokenHttpInterceptor",
    "RuntimeVersionHttpInterceptor",
    "StartRunRequest",
    "StopRunRequest",
    "StreamLogsRequest",
    "SubStatus",
    "SuperExecAuthHttpInterceptor",
    "SuperLinkLifespan",
    "SuperLinkLifespanConfig",
    "TaskType",
    "UnregisterNodeRequest",
    "create_app",
    "inflate_object_from_contents",
    "iterate_object_tree",
    "make_message",
    "make_task_heartbeat_fn_http",
    "public_key_to_bytes",
    "run_from_proto",
    "user_config_to_proto",
]
