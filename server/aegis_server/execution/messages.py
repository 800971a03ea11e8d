"""Actions and pauses as they travel."""

from __future__ import annotations

from collections.abc import Sequence

from aegis.v1 import envelope_pb2, execution_pb2
from aegis_server.execution.approvals.counting import read_demands
from aegis_server.execution.approvals.store import Word
from aegis_server.execution.ladder import next_rung
from aegis_server.execution.pauses.store import StoredPause
from aegis_server.execution.states import UNHELPED
from aegis_server.execution.store import StoredAction


def action_message(action: StoredAction, said: Sequence[Word] = ()) -> execution_pb2.Action:
    """Returns an action with what people said about it."""
    spec = envelope_pb2.ActionSpec.FromString(action.spec)
    message = execution_pb2.Action(
        action_id=action.action_id,
        request_id=str(action.request_id),
        issuer=action.issuer,
        spec=spec,
        action_digest=action.action_digest,
        state=action.state,
        reason=action.reason,
        message=action.message,
        policy_revision=action.policy_revision,
        rule_id=action.rule_id,
        observations=dict(action.observations),
        steps=[demand.message() for demand in read_demands(action.steps)],
        approvals=[_word(each) for each in said if each.kind == "approval"],
        reviews=[_word(each) for each in said if each.kind == "review"],
        break_glass=action.break_glass,
        incident_id=action.incident_id,
        spec_bytes=action.spec,
    )
    message.create_time.FromDatetime(action.created_at)
    message.update_time.FromDatetime(action.updated_at)
    for field, moment in (
        (message.approval_expire_time, action.approval_expires_at),
        (message.execute_expire_time, action.execute_expires_at),
        (message.end_time, action.ended_at),
    ):
        if moment is not None:
            field.FromDatetime(moment)
    if action.state in UNHELPED:
        following = next_rung(spec, action.observations)
        if following is not None:
            message.next.CopyFrom(following)
    return message


def _word(word: Word) -> execution_pb2.Approval:
    message = execution_pb2.Approval(
        approver=word.approver,
        step=word.step,
        group=word.group_name,
        reason=word.reason,
        detached=word.detached,
    )
    message.decide_time.FromDatetime(word.at)
    return message


def pause_message(pause: StoredPause) -> execution_pb2.Pause:
    """Returns a pause; it is in force when the executor has it and nobody ended it."""
    message = execution_pb2.Pause(
        pause_id=pause.pause_id,
        scope=execution_pb2.PauseScope(namespace=pause.namespace, action=pause.action),
        who=pause.who,
        reason=pause.reason,
        in_force=pause.executor_at is not None and pause.resumed_at is None,
    )
    message.create_time.FromDatetime(pause.created_at)
    if pause.expires_at is not None:
        message.expire_time.FromDatetime(pause.expires_at)
    return message
