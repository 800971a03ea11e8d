"""The way to the executor and what its answers mean."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc

from aegis import dsse
from aegis.errors import AegisError, InvalidArgument, NotFound, Unavailable, from_rpc_error
from aegis.executor.v1 import executor_pb2, executor_pb2_grpc
from aegis.v1 import envelope_pb2, execution_pb2
from aegis_server.execution.pauses.store import StoredPause
from aegis_server.execution.states import S, State

_EXECUTE_SECONDS = 25.0
_PLAN_SECONDS = 10.0
_ASK_SECONDS = 5.0
# A stopped execution is stopped within a second, or told to be on its way.
_PAUSE_SECONDS = 2.0

# Codes after which nobody knows whether the executor got the request.
_LOST = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
# The cluster forbids even to look: nothing was planned.
_BLIND = frozenset({"TARGET_GONE", "TARGET_CHANGED", "CLUSTER_REFUSED", "CLUSTER_UNAVAILABLE"})

_STATES: Mapping[int, State] = {
    executor_pb2.Execution.STATE_APPLIED: S.STATE_APPLIED,
    executor_pb2.Execution.STATE_FAILED: S.STATE_FAILED,
    executor_pb2.Execution.STATE_UNKNOWN: S.STATE_UNKNOWN,
    executor_pb2.Execution.STATE_VERIFIED: S.STATE_VERIFIED,
    executor_pb2.Execution.STATE_INEFFECTIVE: S.STATE_INEFFECTIVE,
    executor_pb2.Execution.STATE_INCONCLUSIVE: S.STATE_INCONCLUSIVE,
    executor_pb2.Execution.STATE_COMPENSATED: S.STATE_COMPENSATED,
    executor_pb2.Execution.STATE_ESCALATED: S.STATE_ESCALATED,
    executor_pb2.Execution.STATE_DRY_RUN: S.STATE_DRY_RUN,
}

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far an action came."""

    state: State
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
        approvals: Sequence[envelope_pb2.SignedEnvelope] = (),
    ) -> Outcome | None:
        """Sends a request with its decision and what people said to it.

        None when the executor has to be asked again, because the answer was lost or it is still
        at it; a refusal is an outcome.
        """
        try:
            response = await self._stub.ExecuteAction(
                executor_pb2.ExecuteActionRequest(
                    request=request, decision=decision, approvals=approvals
                ),
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
            return Outcome(S.STATE_REFUSED, refusal.reason, refusal.message, {})
        except Unavailable:
            return None

    async def outcome_of(self, request_id: str, action_digest: bytes) -> Outcome | None:
        """Returns how far a request for this action came, or None while it is begun.

        Raises `NotFound` when the executor never took it, `Unavailable` when it does not answer.
        """
        return _outcome(await self._execution(request_id, action_digest))

    async def gates_of(self, request_id: str, action_digest: bytes) -> Sequence[execution_pb2.Gate]:
        """Returns what the executor held a request by; raises as `outcome_of`."""
        return (await self._execution(request_id, action_digest)).gates

    async def _execution(self, request_id: str, action_digest: bytes) -> executor_pb2.Execution:
        try:
            response = await self._stub.GetExecution(
                executor_pb2.GetExecutionRequest(request_id=request_id), timeout=_ASK_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            translated = from_rpc_error(error)
            if isinstance(translated, NotFound):
                raise translated from error
            raise _away() from error
        if response.execution.action_digest != action_digest:
            raise NotFound("RESOURCE_NOT_FOUND", "the request id named another action there")
        return response.execution

    async def plan(
        self, spec: bytes, issuer: str
    ) -> executor_pb2.PlanExecutionResponse | AegisError:
        """Returns what the executor would do, or why it would not even try.

        Raises what forbids to look, `InvalidArgument` (FIELD_INVALID) for a spec that it does not
        take, `Unavailable` (EXECUTOR_UNAVAILABLE).
        """
        try:
            return await self._stub.PlanExecution(
                executor_pb2.PlanExecutionRequest(spec=spec, issuer=issuer), timeout=_PLAN_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
            if refusal.reason in _BLIND:
                raise refusal from error
            if refusal.reason == "PAYLOAD_INVALID":
                raise InvalidArgument(
                    "FIELD_INVALID", refusal.message, violations=refusal.violations
                ) from error
            if error.code() in _LOST:
                raise _away() from error
            return refusal

    async def pause(self, pause: StoredPause) -> None:
        """Lays a pause upon the executor; raises what it refused with, or `Unavailable`."""
        told = execution_pb2.Pause(
            pause_id=pause.pause_id,
            scope=execution_pb2.PauseScope(namespace=pause.namespace, action=pause.action),
            who=pause.who,
            reason=pause.reason,
        )
        told.create_time.FromDatetime(pause.created_at)
        if pause.expires_at is not None:
            told.expire_time.FromDatetime(pause.expires_at)
        await _reached(
            self._stub.Pause(executor_pb2.PauseRequest(pause=told), timeout=_PAUSE_SECONDS)
        )

    async def resume(self, pause_id: str, *, who: str, reason: str) -> None:
        """Ends a pause there; raises as `pause`."""
        request = executor_pb2.ResumeRequest(pause_id=pause_id, who=who, reason=reason)
        await _reached(self._stub.Resume(request, timeout=_ASK_SECONDS))

    async def resolve(
        self,
        request_id: str,
        *,
        who: str,
        found: execution_pb2.ResolveActionRequest.Found.ValueType,
        reason: str,
    ) -> None:
        """Tells what a person found out; raises as `pause`."""
        request = executor_pb2.ResolveRequest(
            request_id=request_id, who=who, found=found, reason=reason
        )
        await _reached(self._stub.Resolve(request, timeout=_ASK_SECONDS))

    async def guards(self) -> execution_pb2.GetExecutionStateResponse:
        """Returns what holds actions at the executor; raises as `pause`."""
        answer = await _reached(
            self._stub.GetGuards(executor_pb2.GetGuardsRequest(), timeout=_ASK_SECONDS)
        )
        return answer.state

    async def exchange_checkpoints(self, note: str) -> str:
        """Shows our audit log's checkpoint, and returns that of the executor's, maybe empty.

        Raises what the executor refused with, or `Unavailable`.
        """
        request = executor_pb2.ExchangeCheckpointsRequest(note=note)
        try:
            return (await self._stub.ExchangeCheckpoints(request, timeout=_ASK_SECONDS)).note
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error


async def _reached(call: Awaitable[Answer]) -> Answer:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() in _LOST:
            raise _away() from error
        raise from_rpc_error(error) from error


def _away() -> Unavailable:
    return Unavailable("EXECUTOR_UNAVAILABLE", "the executor does not answer")


def _outcome(execution: executor_pb2.Execution) -> Outcome | None:
    state = _STATES.get(execution.state)
    if state is None:
        return None
    return Outcome(state, execution.reason, execution.message, dict(execution.observations))
