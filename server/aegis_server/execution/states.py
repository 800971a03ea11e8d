"""Which state of an action may follow which, and nothing else about them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from aegis.v1 import execution_pb2

S = execution_pb2.Action
State: TypeAlias = execution_pb2.Action.State.ValueType

# Before there is an action.
NOTHING = S.STATE_UNSPECIFIED

_VERDICTS = frozenset(
    {
        S.STATE_VERIFIED,
        S.STATE_INEFFECTIVE,
        S.STATE_INCONCLUSIVE,
        S.STATE_COMPENSATED,
        S.STATE_ESCALATED,
    }
)
_STOPPED = frozenset({S.STATE_REJECTED, S.STATE_EXPIRED, S.STATE_CANCELLED})
_END: frozenset[State] = frozenset()

FOLLOWS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        NOTHING: frozenset({S.STATE_DENIED, S.STATE_PENDING_APPROVAL, S.STATE_DISPATCHED}),
        S.STATE_PENDING_APPROVAL: _STOPPED | {S.STATE_APPROVED},
        # The policy is asked anew for the request that is carried out: it may say no by now, or
        # demand more approvals than it did.
        S.STATE_APPROVED: _STOPPED | {S.STATE_DISPATCHED, S.STATE_PENDING_APPROVAL, S.STATE_DENIED},
        S.STATE_DISPATCHED: frozenset(
            {
                S.STATE_APPLIED,
                S.STATE_REFUSED,
                S.STATE_FAILED,
                S.STATE_UNKNOWN,
                S.STATE_DRY_RUN,
            }
        ),
        S.STATE_APPLIED: _VERDICTS,
        # What a person found: it was not applied, or it was, and nobody watched it.
        S.STATE_UNKNOWN: frozenset({S.STATE_FAILED, S.STATE_INCONCLUSIVE}),
        S.STATE_DENIED: _END,
        S.STATE_REFUSED: _END,
        S.STATE_FAILED: _END,
        S.STATE_REJECTED: _END,
        S.STATE_EXPIRED: _END,
        S.STATE_CANCELLED: _END,
        S.STATE_DRY_RUN: _END,
        **dict.fromkeys(_VERDICTS, _END),
    }
)

# Nothing more happens by itself.
ENDED = frozenset(state for state, next_ones in FOLLOWS.items() if not next_ones) | {
    S.STATE_UNKNOWN
}
# Not sent to the executor yet.
WAITING = frozenset({S.STATE_PENDING_APPROVAL, S.STATE_APPROVED})
# Done, and of no use, or nobody knows: what a breaker counts.
NOT_HEALED = frozenset(
    {
        S.STATE_FAILED,
        S.STATE_UNKNOWN,
        S.STATE_INEFFECTIVE,
        S.STATE_INCONCLUSIVE,
        S.STATE_COMPENSATED,
        S.STATE_ESCALATED,
    }
)
# It did not help: what comes next is the next rung of the ladder.
UNHELPED = frozenset({S.STATE_INEFFECTIVE, S.STATE_COMPENSATED, S.STATE_ESCALATED})


def way(current: State, wanted: State) -> tuple[State, ...]:
    """Returns the states to go through to get where the executor says an action is.

    Empty when it is there already, or when nothing leads there: what was said last stands.
    """
    if wanted in FOLLOWS[current]:
        return (wanted,)
    if S.STATE_APPLIED in FOLLOWS[current] and wanted in FOLLOWS[S.STATE_APPLIED]:
        return (S.STATE_APPLIED, wanted)
    return ()


def name_of(state: State) -> str:
    """Returns a state as the audit log writes it, e.g. `pending_approval`."""
    return execution_pb2.Action.State.Name(state).removeprefix("STATE_").lower()
