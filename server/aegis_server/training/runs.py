"""Training runs as their owners see them: start, watch, stop, read.

What coordinators do to a run is in `progress.py`. Every change of a run and its audit record are
one transaction.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from aegis.errors import AlreadyExists, FailedPrecondition, PermissionDenied
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis.v1 import audit_pb2, training_pb2
from aegis_learning.parameters import digest
from aegis_server.policy.decisions import Decision, Decisions, Question
from aegis_server.privacy.book import ALL
from aegis_server.privacy.ledger import Ledger
from aegis_server.training import plans, store, units
from aegis_server.training.budget import epsilon_of, steps_paid
from aegis_server.training.states import (
    OPEN_STATES,
    RESOURCE,
    Changes,
    State,
    ended,
    entry,
    move,
    require,
)
from aegis_server.training.store import StoredParticipant, StoredRound, StoredRun


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it stands; `rounds` are those that were asked for, in order."""

    run: StoredRun
    last: StoredRound | None
    rounds: tuple[tuple[StoredRound, tuple[StoredParticipant, ...]], ...] = ()

    @property
    def plan(self) -> training_pb2.RunPlan:
        """The plan, parsed."""
        return training_pb2.RunPlan.FromString(self.run.plan)

    @property
    def epsilon(self) -> float:
        """What the run has cost each participant so far, lost and failed rounds included."""
        steps = steps_paid(self.run, self.last)
        if self.last is not None and self.last.steps == steps:
            return self.last.epsilon
        return epsilon_of(self.run, steps)


class Runs:
    """The runs. `ledger` holds what all runs on one data set may cost."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        decisions: Decisions,
        *,
        clock: Callable[[], datetime],
        changes: Changes,
        ledger: Ledger | None = None,
    ) -> None:
        self._database = database
        self._audit = audit
        self._decisions = decisions
        self._clock = clock
        self._changes = changes
        self._ledger = ledger or Ledger()

    async def start(self, *, request_id: UUID, plan: training_pb2.RunPlan, actor: str) -> RunView:
        """Records a run that a coordinator will take up; a repeated request finds its run.

        Raises `InvalidArgument`, `PermissionDenied`, `FailedPrecondition`
        (PRIVACY_BUDGET_EXHAUSTED), `AlreadyExists` (REQUEST_ID_REUSED) or `Unavailable`.
        """
        earlier = await self._earlier(request_id, plan, actor)
        if earlier is not None:
            return earlier
        noise = await asyncio.to_thread(plans.noise_of, plan)
        decision = await self._permit(plan, actor)
        now = self._clock()
        run = StoredRun(
            run_id=f"run-{int(now.timestamp() * 1000):012x}{secrets.token_hex(5)}",
            request_id=request_id,
            plan=plans.canonical(plan),
            state=State.STATE_STARTING,
            reason="",
            actor=actor,
            policy_revision=decision.revision,
            rule_id=decision.rule_id,
            noise_multiplier=noise,
            attempt=0,
            created_at=now,
            updated_at=now,
        )
        try:
            async with self._database.transaction() as connection:
                inserted = await self._insert(connection, run, plan)
        except FailedPrecondition as error:
            await self._audit.record(
                _start_entry(actor, plan, decision, outcome="refused", reason=error.reason)
            )
            raise
        if not inserted:
            # Somebody else sent the same request at the same moment.
            found = await self._earlier(request_id, plan, actor)
            if found is not None:
                return found
        await self._changes.tell()
        return RunView(run, None)

    async def _earlier(
        self, request_id: UUID, plan: training_pb2.RunPlan, actor: str
    ) -> RunView | None:
        async with self._database.transaction() as connection:
            run = await store.run_of_request(connection, request_id)
            if run is None:
                return None
            if (run.plan, run.actor) != (plans.canonical(plan), actor):
                raise AlreadyExists("REQUEST_ID_REUSED", "this request_id has started another run")
            return await _view(connection, run)

    async def _permit(self, plan: training_pb2.RunPlan, actor: str) -> Decision:
        question = Question(actor, "aegis", RESOURCE, "start", _attributes(plan))
        decision = await self._decisions.decide(question, current=True)
        if decision.allowed:
            return decision
        await self._audit.record(
            _start_entry(actor, plan, decision, outcome="deny", reason="POLICY_DENIED")
        )
        by = f"by rule {decision.rule_id}" if decision.rule_id else "because no rule allows it"
        raise PermissionDenied(
            "POLICY_DENIED",
            f"{actor} may not start this run: denied {by}",
            subject=actor,
            resource=RESOURCE,
            action="start",
            rule_id=decision.rule_id,
        )

    async def _insert(
        self, connection: Connection, run: StoredRun, plan: training_pb2.RunPlan
    ) -> bool:
        if not await store.insert_run(connection, run):
            return False
        await self._ledger.reserve(
            connection,
            run_id=run.run_id,
            dataset=plan.dataset,
            participants=(ALL,),
            mechanism=units.mechanism_of(plan, run.noise_multiplier, plans.planned_steps(plan)),
            simulation=plan.simulation,
            model=plan.model,
            at=run.created_at,
        )
        await self._audit.record_in(
            connection,
            entry(
                run,
                actor=run.actor,
                action="start",
                outcome="starting",
                details={
                    **{name: str(value) for name, value in _attributes(plan).items()},
                    **await self._ledger.statement(connection, plan.dataset),
                    "noise_multiplier": str(run.noise_multiplier),
                    "plan_sha256": digest(run.plan).hex(),
                },
                evidence={"plan": run.plan},
            ),
        )
        return True

    async def get(self, run_id: str, *, rounds_after: int | None = None) -> RunView:
        """Returns a run, and its rounds behind a number; raises `NotFound`."""
        async with self._database.transaction() as connection:
            run = await require(connection, run_id)
            return await _view(connection, run, rounds_after=rounds_after)

    async def page(self, *, before: str | None, limit: int) -> list[RunView]:
        """Returns runs without rounds, newest first, older than run id `before`."""
        async with self._database.transaction() as connection:
            found = await store.runs_before(connection, before=before, limit=limit)
            last = await store.last_rounds(connection, [run.run_id for run in found])
        return [RunView(run, last.get(run.run_id)) for run in found]

    async def watch(self, run_id: str) -> AsyncIterator[RunView]:
        """Yields a run with all its rounds so far, then whenever it changed, until it has ended.

        Each view holds the rounds that no earlier one held. Raises `NotFound`.
        """
        seen, state = -1, None
        while True:
            version = self._changes.version
            view = await self.get(run_id, rounds_after=seen)
            if view.rounds or view.run.state != state:
                yield view
            seen, state = view.last.round if view.last else -1, view.run.state
            if state not in OPEN_STATES:
                return
            await self._changes.wait(version)

    async def stop(self, run_id: str, *, reason: str, actor: str) -> RunView:
        """Asks the coordinator to stop after its round.

        Raises `NotFound`, or `FailedPrecondition` (STATE_CONFLICT) when the run has ended.
        """
        async with self._database.transaction() as connection:
            run = await require(connection, run_id, lock=True)
            if run.state not in OPEN_STATES:
                raise ended(run)
            if run.state != State.STATE_STOPPING:
                run = await move(
                    connection,
                    self._audit,
                    run,
                    state=State.STATE_STOPPING,
                    reason=reason or f"stopped by {actor}",
                    actor=actor,
                    action="stop",
                    at=self._clock(),
                )
            view = await _view(connection, run)
        await self._changes.tell()
        return view


async def _view(
    connection: Connection, run: StoredRun, *, rounds_after: int | None = None
) -> RunView:
    last = (await store.last_rounds(connection, [run.run_id])).get(run.run_id)
    if rounds_after is None or last is None or last.round <= rounds_after:
        return RunView(run, last)
    rounds = await store.rounds_after(connection, run.run_id, rounds_after)
    participants = await store.participants_after(connection, run.run_id, rounds_after)
    return RunView(
        run,
        rounds[-1],
        tuple(
            (found, tuple(p for p in participants if p.round == found.round)) for found in rounds
        ),
    )


def _attributes(plan: training_pb2.RunPlan) -> dict[str, object]:
    return {
        "review": "on" if plan.review else "off",
        "simulation": plan.simulation,
        "target_epsilon": plan.target_epsilon,
        "dataset": plan.dataset,
    }


def _start_entry(
    actor: str, plan: training_pb2.RunPlan, decision: Decision, *, outcome: str, reason: str
) -> Entry:
    return Entry(
        kind=audit_pb2.AUDIT_KIND_RUN,
        actor=actor,
        action="start",
        resource=RESOURCE,
        outcome=outcome,
        reason=reason,
        policy_revision=decision.revision,
        rule_id=decision.rule_id,
        details={name: str(value) for name, value in _attributes(plan).items()},
    )
