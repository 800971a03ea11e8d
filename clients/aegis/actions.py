"""Actions as any client sees them: where they may stand, how they are watched, how one insists.

Nothing here signs; see `aegis.remediation` for who does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias, TypeVar

import grpc

from aegis.errors import from_rpc_error
from aegis.v1 import execution_pb2, execution_pb2_grpc

Action: TypeAlias = execution_pb2.Action
Sleep: TypeAlias = Callable[[float], Awaitable[object]]
Answer = TypeVar("Answer")

# Neither ended nor in need of its issuer: the next state comes by itself.
WAITING = frozenset({Action.STATE_PENDING_APPROVAL, Action.STATE_APPROVED})
OPEN = WAITING | {Action.STATE_DISPATCHED, Action.STATE_APPLIED}
# What the next rung of the ladder is for.
UNHEALED = frozenset(
    {
        Action.STATE_INEFFECTIVE,
        Action.STATE_INCONCLUSIVE,
        Action.STATE_COMPENSATED,
        Action.STATE_ESCALATED,
    }
)

_TRIES = 5
_FIRST_SECONDS, _MOST_SECONDS = 0.3, 3.0


async def watch(
    stub: execution_pb2_grpc.ExecutionServiceStub,
    action_id: str,
    *,
    sleep: Sleep = asyncio.sleep,
) -> AsyncGenerator[Action, None]:
    """Yields the action as it is and after every change, until it has ended.

    A stream that breaks is begun again; raises the `AegisError` that refused it.
    """
    request, failures = execution_pb2.WatchActionRequest(action_id=action_id), 0
    while True:
        stream = stub.WatchAction(request)
        try:
            async for answer in stream:
                failures = 0
                yield answer.action
                if answer.action.state not in OPEN:
                    return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or failures + 1 >= _TRIES:
                raise from_rpc_error(error) from error
        finally:
            stream.cancel()
        # A server that drains ends its streams early; the next one takes over.
        await sleep(_pause_seconds(failures))
        failures += 1


async def insist(
    call: Callable[[], Awaitable[Answer]],
    sleep: Sleep = asyncio.sleep,
) -> Answer:
    """Makes a call again while the server is away; raises what refused it, at last UNAVAILABLE.

    REPLAY_DETECTED is asked again as well: every try has a nonce of its own, so it means that
    the transport sent an envelope twice, and the next one is answered with the stored action.
    """
    for failures in range(_TRIES - 1):
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
            away = refusal.code is grpc.StatusCode.UNAVAILABLE
            if not away and refusal.reason != "REPLAY_DETECTED":
                raise refusal from error
        await sleep(_pause_seconds(failures))
    try:
        return await call()
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def _pause_seconds(failures: int) -> float:
    longest: float = min(_MOST_SECONDS, _FIRST_SECONDS * 2**failures)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 (so that clients do not come in step)
