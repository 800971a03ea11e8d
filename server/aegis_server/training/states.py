"""States of a run, and how it gets from one to the next: never without its audit record."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime

from aegis.errors import AegisError, FailedPrecondition, NotFound
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection
from aegis.v1 import audit_pb2, training_pb2
from aegis_server.training import store
from aegis_server.training.store import StoredRun

State = training_pb2.Run
# A coordinator is at work, or is wanted.
OPEN_STATES = frozenset(
    {State.STATE_STARTING, State.STATE_RUNNING, State.STATE_STOPPING, State.STATE_PAUSING}
)
ENDED_STATES = frozenset({State.STATE_COMPLETED, State.STATE_STOPPED, State.STATE_FAILED})
RESOURCE = "/training/runs"
_POLL_SECONDS = 1.0


class Changes:
    """Wakes those who watch when a run changed in this process; other replicas are polled."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()
        self.version = 0

    async def tell(self) -> None:
        """Says that some run changed."""
        async with self._condition:
            self.version += 1
            self._condition.notify_all()

    async def wait(self, version: int, seconds: float = _POLL_SECONDS) -> None:
        """Returns once something happened since `version`, or after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._condition:
                await self._condition.wait_for(lambda: self.version != version)


async def require(connection: Connection, run_id: str, *, lock: bool = False) -> StoredRun:
    """Returns a run; raises `NotFound`."""
    run = await store.run_of(connection, run_id, lock=lock)
    if run is None:
        raise NotFound("RESOURCE_NOT_FOUND", f"there is no run {run_id}", resource=run_id)
    return run


async def move(
    connection: Connection,
    audit: AuditLog,
    run: StoredRun,
    *,
    state: training_pb2.Run.State.ValueType,
    reason: str,
    actor: str,
    action: str,
    at: datetime,
    details: Mapping[str, str] | None = None,
    evidence: Mapping[str, bytes] | None = None,
) -> StoredRun:
    """Moves a locked run to a state and records it; the audit log stays locked until commit."""
    await store.set_state(connection, run.run_id, state=state, reason=reason, at=at)
    outcome = State.State.Name(state).removeprefix("STATE_").lower()
    told = entry(
        run,
        actor=actor,
        action=action,
        outcome=outcome,
        reason=reason,
        details=details,
        evidence=evidence,
    )
    await audit.record_in(connection, told)
    moved = await store.run_of(connection, run.run_id)
    assert moved is not None  # noqa: S101  # we hold its row
    return moved


def entry(
    run: StoredRun,
    *,
    actor: str,
    action: str,
    outcome: str,
    reason: str = "",
    details: Mapping[str, str] | None = None,
    evidence: Mapping[str, bytes] | None = None,
) -> Entry:
    """Returns the audit entry of something that happened to a run."""
    return Entry(
        kind=audit_pb2.AUDIT_KIND_RUN,
        actor=actor,
        action=action,
        resource=f"{RESOURCE}/{run.run_id}",
        outcome=outcome,
        reason=reason,
        policy_revision=run.policy_revision,
        rule_id=run.rule_id,
        subject_id=run.run_id,
        details=details or {},
        evidence=evidence or {},
    )


def conflict(run: StoredRun) -> AegisError:
    """Returns the error that says the state a run is in forbids this."""
    state = State.State.keys()[run.state].removeprefix("STATE_")
    return FailedPrecondition(
        "STATE_CONFLICT", f"{run.run_id} is {state}", resource=run.run_id, state=state
    )


def require_current(run: StoredRun, attempt: int) -> None:
    """Raises `FailedPrecondition` (STATE_CONFLICT) for an ended run or a replaced coordinator."""
    if run.state not in OPEN_STATES:
        raise conflict(run)
    if run.attempt != attempt:
        raise FailedPrecondition(
            "STATE_CONFLICT",
            f"coordinator {run.attempt} has taken over {run.run_id}",
            resource=run.run_id,
            state=f"attempt {run.attempt}",
        )
