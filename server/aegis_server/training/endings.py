"""How runs end: what they really cost is settled in the transaction that ends them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from aegis.errors import FailedPrecondition
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection
from aegis.v1 import training_pb2
from aegis_server.training import store
from aegis_server.training.budget import Budget, epsilon_of, lost_steps, steps_paid
from aegis_server.training.plans import planned_steps
from aegis_server.training.seats.settling import sites_of
from aegis_server.training.seats.store import task_steps
from aegis_server.training.states import State, move
from aegis_server.training.stopping import stopped_early
from aegis_server.training.store import StoredRound, StoredRun


class Endings:
    """Ends runs that are locked."""

    def __init__(self, audit: AuditLog, budget: Budget, *, clock: Callable[[], datetime]) -> None:
        self._audit = audit
        self._budget = budget
        self._clock = clock

    async def end(
        self,
        connection: Connection,
        run: StoredRun,
        state: training_pb2.Run.State.ValueType,
        *,
        reason: str,
        actor: str,
        action: str = "finish",
    ) -> StoredRun:
        """Moves a run to its last state and settles what it cost."""
        plan = training_pb2.RunPlan.FromString(run.plan)
        details = {"dataset": plan.dataset}
        if run.start_request_id is not None:
            last = (await store.last_rounds(connection, [run.run_id])).get(run.run_id)
            paid = await self._paid(connection, replace(run, state=state), plan, last)
            steps = max(paid.values(), default=0)
            await store.set_steps(connection, run.run_id, steps)
            details |= {
                "steps": str(steps),
                "epsilon": f"{epsilon_of(run, steps):.6f}",
                **await self._budget.settle(connection, run, plan, paid, at=self._clock()),
            }
        return await move(
            connection,
            self._audit,
            run,
            state=state,
            reason=reason,
            actor=actor,
            action=action,
            at=self._clock(),
            details=details,
        )

    async def pause(
        self, connection: Connection, run: StoredRun, last: StoredRound | None, *, actor: str
    ) -> StoredRun:
        """Moves a run to PAUSED; what is reserved stays reserved."""
        # What an earlier coordinator may have lost is told with the next round only.
        if last is None or last.attempt == run.attempt:
            await store.settle_attempt(connection, run.run_id)
        return await move(
            connection,
            self._audit,
            run,
            state=State.STATE_PAUSED,
            reason=run.reason,
            actor=actor,
            action="finish",
            at=self._clock(),
        )

    async def _paid(
        self,
        connection: Connection,
        run: StoredRun,
        plan: training_pb2.RunPlan,
        last: StoredRound | None,
    ) -> Mapping[str, int]:
        """Returns the private steps each participant pays for, by a run in its last state."""
        names = [site.name for site in await sites_of(connection, run.run_id, plan)]
        if plan.sites == training_pb2.SITES_ENROLLED:
            asked = await task_steps(connection, run.run_id)
            return {name: min(asked.get(name, 0), planned_steps(plan)) for name in names}
        if run.state == State.STATE_FAILED:
            return dict.fromkeys(names, steps_paid(run, last))
        spent = await store.steps_of(connection, run.run_id)
        lost = lost_steps(run, last, plan)
        most = planned_steps(plan)
        return {name: min(spent.get(name, 0) + lost, most) for name in names}


async def require_completed(
    connection: Connection, run: StoredRun, last: StoredRound | None
) -> str:
    """Returns why the run is complete before its last round, or nothing after it.

    Raises `FailedPrecondition` (STATE_CONFLICT) when it is not.
    """
    plan = training_pb2.RunPlan.FromString(run.plan)
    if last is not None and last.round >= plan.rounds:
        return ""
    early = stopped_early(plan, await store.losses_of(connection, run.run_id))
    if early:
        return early
    raise FailedPrecondition(
        "STATE_CONFLICT",
        f"{run.run_id} has not completed its rounds",
        resource=run.run_id,
        state=f"round {last.round}" if last else "no round",
    )
