"""ExecutorService on the wire."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc

from aegis.errors import AegisError, InvalidArgument, PermissionDenied
from aegis.executor.v1 import executor_pb2, executor_pb2_grpc
from aegis.serving.auditlog import AuditLog
from aegis.serving.checkpointing.peers import PeerLog
from aegis.serving.doors import Admit, Grant, current_call
from aegis.spiffe import Caller
from aegis.v1 import execution_pb2
from aegis_executor import records
from aegis_executor.admission import Admission
from aegis_executor.catalogue.base import Gate
from aegis_executor.executions import Executions
from aegis_executor.guards import Guards
from aegis_executor.guards.orders import Orders
from aegis_executor.guards.wire import gate_of, pause_of, state_of
from aegis_executor.journal import Execution
from aegis_executor.plans import Plans

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_DEADLINE_SECONDS_MAX = 120.0


def admit_peers(peers: frozenset[str], audit: AuditLog) -> Admit:
    """Returns the door's rule: these subjects may call, nobody else (PEER_NOT_ALLOWED)."""

    async def admit(method: str, caller: Caller) -> Grant:
        if caller.subject not in peers:
            refusal = PermissionDenied(
                "PEER_NOT_ALLOWED", f"{caller.subject} may not call this executor", method=method
            )
            await audit.record(records.refused(caller.subject, refusal))
            raise refusal
        return Grant()

    return admit


class ExecutorService(executor_pb2_grpc.ExecutorServiceServicer):
    """Wire ↔ values, nothing else."""

    def __init__(
        self,
        *,
        admission: Admission,
        executions: Executions,
        plans: Plans,
        audit: AuditLog,
        server: PeerLog,
        guards: Guards,
        orders: Orders,
    ) -> None:
        self._admission = admission
        self._executions = executions
        self._plans = plans
        self._audit = audit
        self._server = server
        self._guards = guards
        self._orders = orders

    async def PlanExecution(
        self, request: executor_pb2.PlanExecutionRequest, context: Context
    ) -> executor_pb2.PlanExecutionResponse:
        """See executor.proto."""
        _demand_deadline(context)
        return await self._plans.plan(request)

    async def ExecuteAction(
        self, request: executor_pb2.ExecuteActionRequest, context: Context
    ) -> executor_pb2.ExecuteActionResponse:
        """See executor.proto."""
        peer, admitted = current_call().caller.subject, None
        try:
            _demand_deadline(context)
            admitted = self._admission.admit(
                request.request, request.decision, request.approvals, peer=peer
            )
            execution = await self._executions.carry_out(admitted)
        except AegisError as refusal:
            if refusal.code is not grpc.StatusCode.UNAVAILABLE:
                await self._audit.record(records.refused(peer, refusal, admitted))
            raise
        return executor_pb2.ExecuteActionResponse(execution=_message(execution))

    async def GetExecution(
        self, request: executor_pb2.GetExecutionRequest, context: Context
    ) -> executor_pb2.GetExecutionResponse:
        """See executor.proto."""
        _demand_deadline(context)
        execution = await self._executions.find(request.request_id)
        return executor_pb2.GetExecutionResponse(execution=_message(execution))

    async def Pause(
        self, request: executor_pb2.PauseRequest, context: Context
    ) -> executor_pb2.PauseResponse:
        """See executor.proto."""
        _demand_deadline(context)
        await self._orders.pause(pause_of(request.pause))
        return executor_pb2.PauseResponse()

    async def Resume(
        self, request: executor_pb2.ResumeRequest, context: Context
    ) -> executor_pb2.ResumeResponse:
        """See executor.proto."""
        _demand_deadline(context)
        await self._orders.resume(pause_id=request.pause_id, who=request.who, reason=request.reason)
        return executor_pb2.ResumeResponse()

    async def Resolve(
        self, request: executor_pb2.ResolveRequest, context: Context
    ) -> executor_pb2.ResolveResponse:
        """See executor.proto."""
        _demand_deadline(context)
        found = execution_pb2.ResolveActionRequest.Found.Name(request.found)
        await self._orders.resolve(
            request_id=request.request_id,
            who=request.who,
            found=found.removeprefix("FOUND_"),
            reason=request.reason,
        )
        return executor_pb2.ResolveResponse()

    async def GetGuards(
        self, request: executor_pb2.GetGuardsRequest, context: Context
    ) -> executor_pb2.GetGuardsResponse:
        """See executor.proto."""
        _demand_deadline(context)
        return executor_pb2.GetGuardsResponse(state=state_of(await self._guards.board()))

    async def ExchangeCheckpoints(
        self, request: executor_pb2.ExchangeCheckpointsRequest, context: Context
    ) -> executor_pb2.ExchangeCheckpointsResponse:
        """See executor.proto."""
        await self._server.take(request.note)
        return executor_pb2.ExchangeCheckpointsResponse(note=await self._server.newest())


def _demand_deadline(context: Context) -> None:
    # A caller that never gives up would hold its place for ever.
    remaining = context.time_remaining()
    if remaining is None or remaining > _DEADLINE_SECONDS_MAX:
        raise InvalidArgument(
            "DEADLINE_REQUIRED", f"set a deadline of at most {_DEADLINE_SECONDS_MAX:g} s"
        )


def _message(execution: Execution) -> executor_pb2.Execution:
    ending, verdict = execution.ending, execution.verdict
    message = executor_pb2.Execution(
        request_id=execution.request_id,
        action_id=execution.action_id,
        action_digest=execution.action_digest,
        state=executor_pb2.Execution.STATE_INTENT,
    )
    message.intent_time.FromDatetime(execution.intent_at)
    for known in (ending, verdict):
        if known is not None:
            message.state = executor_pb2.Execution.State.Value(f"STATE_{known.state}")
            message.reason = known.reason
            message.message = known.message
            message.observations.update(known.observations)
            if known.reason:
                held = Gate("executor", False, known.reason, known.message)
                message.gates.append(gate_of(held))
    ended_at = verdict.at if verdict is not None else execution.ended_at
    if ended_at is not None:
        message.end_time.FromDatetime(ended_at)
    return message
