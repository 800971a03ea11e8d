"""ExecutionService: wire to values and back."""

from __future__ import annotations

from datetime import datetime

from aegis.errors import InvalidArgument
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import envelope_pb2, execution_pb2, execution_pb2_grpc
from aegis_server.execution.actions import Actions
from aegis_server.execution.store import StoredAction


class ExecutionService(execution_pb2_grpc.ExecutionServiceServicer):
    """Takes signed requests; shows actions."""

    def __init__(self, actions: Actions, deeds: Deeds) -> None:
        self._actions = actions
        self._deeds = deeds

    async def SubmitAction(
        self, request: execution_pb2.SubmitActionRequest, context: Context
    ) -> execution_pb2.SubmitActionResponse:
        """See the rpc's comment."""
        caller = current_call().caller
        action = await self._deeds.finish(self._actions.submit(request.envelope, caller))
        return execution_pb2.SubmitActionResponse(action=_message(action))

    async def GetAction(
        self, request: execution_pb2.GetActionRequest, context: Context
    ) -> execution_pb2.GetActionResponse:
        """One action."""
        action = await self._actions.get(request.action_id)
        return execution_pb2.GetActionResponse(action=_message(action))

    async def ListActions(
        self, request: execution_pb2.ListActionsRequest, context: Context
    ) -> execution_pb2.ListActionsResponse:
        """Newest first."""
        size = page_size(request.page_size)
        actions = await self._actions.page(_position(request.page_token), size)
        token = ""
        if len(actions) == size:
            last = actions[-1]
            token = encode_token(f"{last.created_at.isoformat()} {last.action_id}", "actions")
        return execution_pb2.ListActionsResponse(
            actions=[_message(action) for action in actions], next_page_token=token
        )


def _position(token: str) -> tuple[datetime, str] | None:
    position = decode_token(token, "actions")
    if position is None:
        return None
    created_at, _, action_id = str(position).partition(" ")
    try:
        return datetime.fromisoformat(created_at), action_id
    except ValueError as error:
        raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token") from error


def _message(action: StoredAction) -> execution_pb2.Action:
    message = execution_pb2.Action(
        action_id=action.action_id,
        request_id=str(action.request_id),
        issuer=action.issuer,
        spec=envelope_pb2.ActionSpec.FromString(action.spec),
        action_digest=action.action_digest,
        state=execution_pb2.Action.State.ValueType(action.state),
        reason=action.reason,
        message=action.message,
        policy_revision=action.policy_revision,
        rule_id=action.rule_id,
        observations=dict(action.observations),
    )
    message.create_time.FromDatetime(action.created_at)
    message.update_time.FromDatetime(action.updated_at)
    return message
