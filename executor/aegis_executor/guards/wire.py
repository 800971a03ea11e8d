"""Guards on the wire: a pause as it comes in, and how everything stands as it goes out."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from aegis.errors import FieldViolation, InvalidArgument
from aegis.v1 import execution_pb2
from aegis_executor.catalogue.base import Gate
from aegis_executor.guards.board import Board
from aegis_executor.guards.breakers import Breaker
from aegis_executor.guards.pauses import Pause
from aegis_executor.guards.storm import Storm

_TEXT_MAX = 500
# What time or a person may open; everything else is a no.
_HELD = frozenset(
    {
        "BOUNDS_EXCEEDED",
        "BREAKER_OPEN",
        "BUDGET_EXHAUSTED",
        "CLOCK_UNTRUSTED",
        "COOLING_DOWN",
        "EXECUTION_PAUSED",
        "PDB_EXHAUSTED",
        "SINGLE_REPLICA",
        "STORM_ACTIVE",
        "TARGET_BUSY",
        "TARGET_UNSETTLED",
        "WINDOW_CLOSED",
    }
)


def pause_of(message: execution_pb2.Pause) -> Pause:
    """Returns a pause; raises `InvalidArgument` (FIELD_INVALID) for one nobody could tell apart.

    The scope's own form was validated with the request.
    """
    lacking = [
        FieldViolation(f"pause.{field}", f"must have 1 to {most} characters")
        for field, value, most in (
            ("pause_id", message.pause_id, 64),
            ("who", message.who, 160),
            ("reason", message.reason, _TEXT_MAX),
        )
        if not 0 < len(value) <= most
    ]
    if not message.HasField("create_time"):
        lacking.append(FieldViolation("pause.create_time", "must be set"))
    if lacking:
        raise InvalidArgument("FIELD_INVALID", "not a pause", violations=lacking)
    return Pause(
        pause_id=message.pause_id,
        namespace=message.scope.namespace,
        action=message.scope.action,
        who=message.who,
        reason=message.reason,
        at=_moment(message.create_time, "pause.create_time"),
        expires_at=_moment(message.expire_time, "pause.expire_time")
        if message.HasField("expire_time")
        else None,
    )


def state_of(board: Board) -> execution_pb2.GetExecutionStateResponse:
    """Returns how everything stands."""
    state = execution_pb2.GetExecutionStateResponse(
        pauses=map(_pause, board.pauses),
        breakers=map(_breaker, board.breakers),
        storm=_storm(board.storm),
        epoch=board.epoch,
        local_pause=board.local_pause,
    )
    for budget in board.budgets:
        state.budgets.add(
            name=budget.name, used=budget.used, limit=budget.limit, free_time=_stamp(budget.free_at)
        )
    return state


def gate_of(gate: Gate) -> execution_pb2.Gate:
    """Returns one gate, of an object or of a guard, as it is told to people."""
    told = execution_pb2.Gate(
        name=gate.name,
        reason=gate.reason,
        message=gate.message,
        retry_time=_stamp(gate.retry_at),
    )
    if gate.passed:
        told.verdict = execution_pb2.Gate.VERDICT_PASSED
    elif gate.reason in _HELD:
        told.verdict = execution_pb2.Gate.VERDICT_HELD
    else:
        told.verdict = execution_pb2.Gate.VERDICT_REFUSED
    return told


def _pause(pause: Pause) -> execution_pb2.Pause:
    return execution_pb2.Pause(
        pause_id=pause.pause_id,
        scope=execution_pb2.PauseScope(namespace=pause.namespace, action=pause.action),
        who=pause.who,
        reason=pause.reason,
        create_time=_stamp(pause.at),
        expire_time=_stamp(pause.expires_at),
        in_force=True,
    )


def _breaker(breaker: Breaker) -> execution_pb2.Breaker:
    return execution_pb2.Breaker(
        name=breaker.name,
        state=execution_pb2.Breaker.State.Value(f"STATE_{breaker.state}"),
        cause=breaker.cause,
        since=_stamp(breaker.since),
        probe_time=_stamp(breaker.probe_at),
    )


def _storm(storm: Storm) -> execution_pb2.Storm:
    return execution_pb2.Storm(
        state=execution_pb2.Storm.State.Value(f"STATE_{storm.state}"),
        cause=storm.cause,
        since=_stamp(storm.since),
        watched=storm.watched,
        anomalous=storm.anomalous,
        pace=storm.pace,
    )


def _stamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _moment(stamp: Timestamp, field: str) -> datetime:
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        violation = FieldViolation(field, "is no time")
        raise InvalidArgument("FIELD_INVALID", "not a pause", violations=[violation]) from error
