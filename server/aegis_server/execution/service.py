"""ExecutionService: wire to values and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from aegis.errors import AegisError, InvalidArgument
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import execution_pb2, execution_pb2_grpc
from aegis_server.execution import records
from aegis_server.execution.actions import Actions
from aegis_server.execution.afterwards import Afterwards
from aegis_server.execution.approvals.deciding import Approvals, Vote
from aegis_server.execution.dispatch import Dispatch
from aegis_server.execution.endings import Endings
from aegis_server.execution.healing.report import Reports
from aegis_server.execution.ledger import Ledger
from aegis_server.execution.messages import action_message, pause_message
from aegis_server.execution.pauses.pausing import Pauses
from aegis_server.execution.planning import Planner
from aegis_server.execution.store import StoredAction
from aegis_server.execution.watching import Watching
from aegis_server.execution.why import Why

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Room:
    """Everything the service speaks for."""

    ledger: Ledger
    actions: Actions
    planner: Planner
    approvals: Approvals
    endings: Endings
    afterwards: Afterwards
    pauses: Pauses
    why: Why
    watching: Watching
    reports: Reports
    dispatch: Dispatch


class ExecutionService(execution_pb2_grpc.ExecutionServiceServicer):
    """Plans, takes, approves, stops and shows actions."""

    def __init__(self, room: Room, deeds: Deeds) -> None:
        self._room = room
        self._deeds = deeds

    async def PlanAction(
        self, request: execution_pb2.PlanActionRequest, context: Context
    ) -> execution_pb2.PlanActionResponse:
        """See the rpc's comment."""
        planned = self._room.planner.plan(request, current_call().caller.subject)
        return await self._told("plan", planned)

    async def SubmitAction(
        self, request: execution_pb2.SubmitActionRequest, context: Context
    ) -> execution_pb2.SubmitActionResponse:
        """See the rpc's comment."""
        caller = current_call().caller
        action = await self._deeds.finish(self._room.actions.submit(request.envelope, caller))
        return execution_pb2.SubmitActionResponse(action=await self._shown(action))

    async def GetAction(
        self, request: execution_pb2.GetActionRequest, context: Context
    ) -> execution_pb2.GetActionResponse:
        """One action."""
        action = await self._room.actions.get(request.action_id)
        return execution_pb2.GetActionResponse(action=await self._shown(action))

    async def ListActions(
        self, request: execution_pb2.ListActionsRequest, context: Context
    ) -> execution_pb2.ListActionsResponse:
        """Newest first."""
        size = page_size(request.page_size)
        states = sorted(set(request.states))
        query = ("actions", tuple(states), request.incident_id)
        actions = await self._room.actions.page(
            _position(request.page_token, query),
            size,
            states=states,
            incident_id=request.incident_id,
        )
        token = ""
        if len(actions) == size:
            last = actions[-1]
            token = encode_token(f"{last.created_at.isoformat()} {last.action_id}", *query)
        said = await self._room.actions.said_about(actions)
        return execution_pb2.ListActionsResponse(
            actions=[action_message(action, said[action.action_id]) for action in actions],
            next_page_token=token,
        )

    async def WatchAction(
        self, request: execution_pb2.WatchActionRequest, context: Context
    ) -> AsyncIterator[execution_pb2.WatchActionResponse]:
        """Until it has ended."""
        async for action, said in self._room.watching.watch(request.action_id):
            yield execution_pb2.WatchActionResponse(action=action_message(action, said))

    async def ApproveAction(
        self, request: execution_pb2.ApproveActionRequest, context: Context
    ) -> execution_pb2.ApproveActionResponse:
        """One person's yes."""
        vote = Vote(
            action_id=request.action_id,
            action_digest=request.action_digest,
            who=current_call().caller.subject,
            reason=request.reason,
            group=request.group,
            detached=request.approval if request.HasField("approval") else None,
        )
        action = await self._done(
            "approve", self._room.approvals.approve(vote), about=request.action_id
        )
        return execution_pb2.ApproveActionResponse(action=await self._shown(action))

    async def RejectAction(
        self, request: execution_pb2.RejectActionRequest, context: Context
    ) -> execution_pb2.RejectActionResponse:
        """One person's no."""
        vote = Vote(
            action_id=request.action_id,
            action_digest=request.action_digest,
            who=current_call().caller.subject,
            reason=request.reason,
        )
        action = await self._done(
            "reject", self._room.approvals.reject(vote), about=request.action_id
        )
        return execution_pb2.RejectActionResponse(action=await self._shown(action))

    async def CancelAction(
        self, request: execution_pb2.CancelActionRequest, context: Context
    ) -> execution_pb2.CancelActionResponse:
        """Before it is sent."""
        cancelled = self._room.endings.cancel(
            request.action_id, current_call().caller, request.reason
        )
        action = await self._done("cancel", cancelled, about=request.action_id)
        return execution_pb2.CancelActionResponse(action=await self._shown(action))

    async def WhyAction(
        self, request: execution_pb2.WhyActionRequest, context: Context
    ) -> execution_pb2.WhyActionResponse:
        """Its gates."""
        action, said, gates = await self._room.why.why(request.action_id)
        return execution_pb2.WhyActionResponse(action=action_message(action, said), gates=gates)

    async def ResolveAction(
        self, request: execution_pb2.ResolveActionRequest, context: Context
    ) -> execution_pb2.ResolveActionResponse:
        """What a person found."""
        resolved = self._room.afterwards.resolve(
            request.action_id,
            who=current_call().caller.subject,
            found=request.found,
            reason=request.reason,
        )
        action = await self._done("resolve", resolved, about=request.action_id)
        return execution_pb2.ResolveActionResponse(action=await self._shown(action))

    async def ReviewBreakGlass(
        self, request: execution_pb2.ReviewBreakGlassRequest, context: Context
    ) -> execution_pb2.ReviewBreakGlassResponse:
        """Somebody answers for it."""
        reviewed = self._room.afterwards.review(
            request.action_id, who=current_call().caller.subject, reason=request.reason
        )
        action = await self._done("review", reviewed, about=request.action_id)
        return execution_pb2.ReviewBreakGlassResponse(action=await self._shown(action))

    async def PauseExecution(
        self, request: execution_pb2.PauseExecutionRequest, context: Context
    ) -> execution_pb2.PauseExecutionResponse:
        """The kill switch."""
        stopped = self._room.pauses.pause(
            namespace=request.scope.namespace,
            verb=request.scope.action,
            who=current_call().caller.subject,
            reason=request.reason,
            life=request.life.ToTimedelta() if request.HasField("life") else None,
        )
        pause = await self._done("pause", stopped, resource=records.EXECUTION)
        return execution_pb2.PauseExecutionResponse(pause=pause_message(pause))

    async def ResumeExecution(
        self, request: execution_pb2.ResumeExecutionRequest, context: Context
    ) -> execution_pb2.ResumeExecutionResponse:
        """Its end."""
        resumed = self._room.pauses.resume(
            request.pause_id, who=current_call().caller.subject, reason=request.reason
        )
        pause = await self._done(
            "resume", resumed, about=request.pause_id, resource=records.EXECUTION
        )
        return execution_pb2.ResumeExecutionResponse(pause=pause_message(pause))

    async def GetExecutionState(
        self, request: execution_pb2.GetExecutionStateRequest, context: Context
    ) -> execution_pb2.GetExecutionStateResponse:
        """The executor's guards, with the pauses of both."""
        ours = [pause_message(pause) for pause in await self._room.pauses.standing()]
        state = await self._room.dispatch.guards()
        known = {pause.pause_id for pause in ours}
        theirs = [pause for pause in state.pauses if pause.pause_id not in known]
        del state.pauses[:]
        state.pauses.extend([*ours, *theirs])
        return state

    async def GetHealingReport(
        self, request: execution_pb2.GetHealingReportRequest, context: Context
    ) -> execution_pb2.GetHealingReportResponse:
        """Counts."""
        return await self._room.reports.report(request)

    async def _shown(self, action: StoredAction) -> execution_pb2.Action:
        said = await self._room.actions.said_about([action])
        return action_message(action, said[action.action_id])

    async def _done(
        self,
        deed: str,
        work: Coroutine[Any, Any, Result],
        *,
        about: str = "",
        resource: str = records.ACTIONS,
    ) -> Result:
        """Does something to its end, also when the caller goes away."""
        return await self._deeds.finish(self._told(deed, work, about=about, resource=resource))

    async def _told(
        self,
        deed: str,
        work: Coroutine[Any, Any, Result],
        *,
        about: str = "",
        resource: str = records.ACTIONS,
    ) -> Result:
        """Awaits; a refusal is recorded and counted before it is given."""
        who = current_call().caller.subject
        try:
            return await work
        except AegisError as refusal:
            await self._room.ledger.refuse(who, deed, refusal, resource=resource, about=about)
            raise


def _position(token: str, query: tuple[object, ...]) -> tuple[datetime, str] | None:
    position = decode_token(token, *query)
    if position is None:
        return None
    created_at, _, action_id = str(position).partition(" ")
    try:
        return datetime.fromisoformat(created_at), action_id
    except ValueError as error:
        raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token") from error
