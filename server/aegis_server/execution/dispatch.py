"""The way to the executor and what its answers mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from aegis import dsse
from aegis.errors import AegisError, NotFound, Unavailable, from_rpc_error
from aegis.executor.v1 import executor_pb2, executor_pb2_grpc
from aegis.v1 import envelope_pb2, execution_pb2

_EXECUTE_SECONDS = 25.0
_ASK_SECONDS = 5.0

# Codes after which nobody knows whether the executor got the request.
_LOST = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)

_STATES = {
    executor_pb2.Execution.STATE_APPLIED: execution_pb2.Action.STATE_APPLIED,
    executor_pb2.Execution.STATE_FAILED: execution_pb2.Action.STATE_FAILED,
    executor_pb2.Execution.STATE_UNKNOWN: execution_pb2.Action.STATE_UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an action ended."""

    state: execution_pb2.Action.State.ValueType
    reason: str
    message: str
    observations: Mapping[str, str]


class Dispatch:
    """Asks one executor over its channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = executor_pb2_grpc.ExecutorServiceStub(channel)

    async def execute(
        self,
        request: envelope_pb2.SignedEnvelope,
        decision: envelope_pb2.SignedEnvelope,
    ) -> Outcome | None:
        """Sends a request with its decision.

        None when the executor has to be asked again, because the answer was lost or it is still
        at it; a refusal is an outcome.
        """
        try:
            response = await self._stub.ExecuteAction(
                executor_pb2.ExecuteActionRequest(request=request, decision=decision),
                timeout=_EXECUTE_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            if error.code() in _LOST:
                return None
            return await self._unless_taken(request, from_rpc_error(error))
        return _outcome(response.execution)

    async def _unless_taken(
        self, request: envelope_pb2.SignedEnvelope, refusal: AegisError
    ) -> Outcome | None:
        # A copy that came too late is refused although an earlier one was taken.
        asked = envelope_pb2.ActionRequest.FromString(request.payload)
        try:
            return await self.outcome_of(asked.request_id, dsse.action_digest(asked.spec))
        except NotFound:
            return Outcome(execution_pb2.Action.STATE_REFUSED, refusal.reason, refusal.message, {})
        except Unavailable:
            return None

    async def outcome_of(self, request_id: str, action_digest: bytes) -> Outcome | None:
        """Returns how a request for this action ended, or None while it is going on.

        Raises `NotFound` when the executor never took it, `Unavailable` when it does not answer.
        """
        try:
            response = await self._stub.GetExecution(
                executor_pb2.GetExecutionRequest(request_id=request_id), timeout=_ASK_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            translated = from_rpc_error(error)
            if isinstance(translated, NotFound):
                raise translated from error
            raise Unavailable("EXECUTOR_UNAVAILABLE", "the executor does not answer") from error
        if response.execution.action_digest != action_digest:
            raise NotFound("RESOURCE_NOT_FOUND", "the request id named another action there")
        return _outcome(response.execution)

    async def exchange_checkpoints(self, note: str) -> str:
        """Shows our audit log's checkpoint, and returns that of the executor's, maybe empty.

        Raises what the executor refused with, or `Unavailable`.
        """
        request = executor_pb2.ExchangeCheckpointsRequest(note=note)
        try:
            return (await self._stub.ExchangeCheckpoints(request, timeout=_ASK_SECONDS)).note
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error


def _outcome(execution: executor_pb2.Execution) -> Outcome | None:
    state = _STATES.get(execution.state)
    if state is None:
        return None
    return Outcome(state, execution.reason, execution.message, dict(execution.observations))
