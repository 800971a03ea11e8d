"""A whole Aegis of a throw-away home, with the rules of `rules` and an API key to ask with.

    async with control_plane(world, folder) as plane: ...

It is what `aegis up` starts: PostgreSQL, Valkey, witness, executor and server, each a process.
Every answer is recorded in its audit log before it is given. Rate limits are lifted, since they
are there to stop what a bench does. Aegis has no port without TLS, by design. h2load shows no
client certificate, so calls go to the port for tokens with the key of a service account.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from languages import casbin
from questions import Request
from replay import Load
from targets import Target

from aegis.channel import connect
from aegis.local.stack import Stack
from aegis.v1 import (
    policy_pb2,
    policy_pb2_grpc,
    service_account_pb2,
    service_account_pb2_grpc,
)
from aegis_policy.baseline import baseline_csv
from rules import World

_EVALUATE = "/aegis.v1.PolicyService/Evaluate"
_LIMITS = {"AEGIS_LIMITS": "evaluate=999999/999999"}
_DAY_SECONDS = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A running stack; `evaluate` is its unary call."""

    evaluate: Target
    loaded_seconds: float


@asynccontextmanager
async def control_plane(
    world: World, folder: Path, *, environment: Mapping[str, str] | None = None
) -> AsyncIterator[ControlPlane]:
    """Starts one, imports the rules beside the baseline and makes a key."""
    servers = {"server": {**_LIMITS, **(environment or {})}}
    async with Stack(folder, environment=servers, given={}) as stack:
        admin = stack.identity("admin")
        rules = baseline_csv() + "\n" + "\n".join(casbin(world)) + "\n"
        clock = asyncio.get_running_loop().time
        async with connect(stack.address, admin) as channel:
            began = clock()
            await policy_pb2_grpc.PolicyServiceStub(channel).ImportPolicy(
                policy_pb2.ImportPolicyRequest(csv=rules, reason="a bench"), timeout=300
            )
            took = clock() - began
            accounts = service_account_pb2_grpc.ServiceAccountServiceStub(channel)
            await accounts.CreateServiceAccount(
                service_account_pb2.CreateServiceAccountRequest(name="bench", roles=["operator"]),
                timeout=30,
            )
            key = await accounts.CreateApiKey(
                service_account_pb2.CreateApiKeyRequest(
                    service_account="bench", lifetime_seconds=_DAY_SECONDS
                ),
                timeout=30,
            )
        pid = stack.pid("server")
        if pid is None:
            raise RuntimeError("the server has ended")
        load = Load(stack.token_address, _EVALUATE, admin.roots, f"Bearer {key.secret}")
        yield ControlPlane(Target("aegis", load, pid, body_of, _allowed), took)


def message_of(request: Request) -> policy_pb2.EvaluateRequest:
    """Returns a question as Aegis takes it."""
    return policy_pb2.EvaluateRequest(
        subject=request.subject,
        domain=request.domain,
        resource=request.resource,
        action=request.action,
    )


def body_of(request: Request) -> bytes:
    """Returns the body of an Evaluate."""
    return message_of(request).SerializeToString()


def batch_body(asked: list[Request]) -> bytes:
    """Returns the body of a BatchEvaluate."""
    return policy_pb2.BatchEvaluateRequest(requests=map(message_of, asked)).SerializeToString()


def _allowed(body: bytes) -> bool:
    return policy_pb2.EvaluateResponse.FromString(body).effect == policy_pb2.EFFECT_ALLOW


def source_of(body: bytes) -> str:
    """Returns where an answer came from: engine, memory or redis."""
    source = policy_pb2.EvaluateResponse.FromString(body).source
    return policy_pb2.DecisionSource.Name(source).removeprefix("DECISION_SOURCE_").lower()
