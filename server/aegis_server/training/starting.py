"""How runs begin: recorded as CREATED, then STARTING once policy and budget allow it.

Nothing is decided twice from memory: a run that waited is checked against the policy, the
participants and the budget of the day it starts. Every step and its audit record are one
transaction, and every request can be repeated.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from uuid import UUID

from aegis.errors import AegisError, AlreadyExists, NotFound
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis.v1 import training_pb2
from aegis_learning.datasets import Dataset, UnknownDataset, load
from aegis_learning.parameters import digest
from aegis_server.policy.decisions import Decision
from aegis_server.training import plans, store
from aegis_server.training.admission import Admission, details_of
from aegis_server.training.budget import Budget
from aegis_server.training.seats import settling
from aegis_server.training.seats.store import StoredSite, insert_sites, sites_of
from aegis_server.training.states import Changes, State, conflict, entry, move, require
from aegis_server.training.store import StoredRun
from aegis_server.training.views import RunView, view_of

Find = Callable[[str], Awaitable[Dataset]]


class _Overtaken(Exception):
    """Somebody else sent the same request at the same moment."""


async def shipped(name: str) -> Dataset:
    """Finds data sets that ship with Aegis; raises `UnknownDataset`."""
    return load(name)


class Starting:
    """Creates and starts runs. `find` returns a data set by its name."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        admission: Admission,
        *,
        clock: Callable[[], datetime],
        changes: Changes,
        budget: Budget,
        find: Find,
    ) -> None:
        self._database = database
        self._audit = audit
        self._admission = admission
        self._clock = clock
        self._changes = changes
        self._budget = budget
        self._find = find

    async def create(self, *, request_id: UUID, plan: training_pb2.RunPlan, actor: str) -> RunView:
        """Records a run that is not started; a repeated request finds its run.

        Raises as `start`, but for the budget, which is not touched.
        """
        return await self._new(request_id, plan, actor, started=False)

    async def start(self, *, request_id: UUID, plan: training_pb2.RunPlan, actor: str) -> RunView:
        """Records a run that a coordinator will take up; a repeated request finds its run.

        Raises `InvalidArgument`, `PermissionDenied`, `ResourceExhausted` or `FailedPrecondition`
        (PRIVACY_BUDGET_EXHAUSTED, PARTICIPANTS_MISSING), `AlreadyExists` (REQUEST_ID_REUSED) or
        `Unavailable`.
        """
        return await self._new(request_id, plan, actor, started=True)

    async def start_created(self, run_id: str, *, request_id: UUID, actor: str) -> RunView:
        """Starts a run that was recorded; a repeated request finds it started.

        Raises as `start`, `NotFound`, or `FailedPrecondition` (STATE_CONFLICT) when the run is not
        CREATED.
        """
        async with self._database.transaction() as connection:
            used = await store.run_of_request(connection, request_id)
            run = await require(connection, run_id)
            if used is not None:
                if (used.run_id, used.start_request_id, used.actor) != (run_id, request_id, actor):
                    raise _reused()
                if used.request_id == request_id:
                    raise _reused()
                return await view_of(connection, used)
            if run.state != State.STATE_CREATED:
                raise conflict(run)
            plan = training_pb2.RunPlan.FromString(run.plan)
            sites = await sites_of(connection, [run_id])
            await settling.require_present(connection, run_id, plan)
        decision = await self._admission.permit(plan, actor, len(sites), action="start")

        async def begin(connection: Connection) -> StoredRun:
            now = await require(connection, run_id, lock=True)
            if now.state == State.STATE_CREATED:
                return await self._begin(connection, now, plan, sites, decision, request_id, actor)
            if now.start_request_id == request_id:
                return now
            raise conflict(now)

        return await self._recorded(begin, plan, sites, decision, actor)

    async def _new(
        self, request_id: UUID, plan: training_pb2.RunPlan, actor: str, *, started: bool
    ) -> RunView:
        earlier = await self._earlier(request_id, plan, actor, started=started)
        if earlier is not None:
            return earlier
        data = await self._dataset(plan.dataset)
        noise = await asyncio.to_thread(plans.noise_of, plan, data)
        assert data is not None  # noqa: S101  # a plan without one was refused
        now = self._clock()
        run_id = f"run-{int(now.timestamp() * 1000):012x}{secrets.token_hex(5)}"
        async with self._database.transaction() as connection:
            sites = await settling.settle(connection, run_id, plan, data)
        action = "start" if started else "create"
        decision = await self._admission.permit(plan, actor, len(sites), action=action)
        run = StoredRun(
            run_id=run_id,
            request_id=request_id,
            plan=plans.canonical(plan),
            state=State.STATE_CREATED,
            reason="",
            actor=actor,
            policy_revision=decision.revision,
            rule_id=decision.rule_id,
            noise_multiplier=noise,
            attempt=0,
            created_at=now,
            updated_at=now,
            creator=actor,
        )

        async def insert(connection: Connection) -> StoredRun:
            if not await store.insert_run(connection, run):
                raise _Overtaken
            await insert_sites(connection, sites)
            if started:
                return await self._begin(connection, run, plan, sites, decision, request_id, actor)
            created = entry(
                run,
                actor=actor,
                action="create",
                outcome="created",
                details=_details(run, plan, sites),
                evidence={"plan": run.plan},
            )
            await self._audit.record_in(connection, created)
            return run

        try:
            return await self._recorded(insert, plan, sites, decision, actor)
        except _Overtaken:
            found = await self._earlier(request_id, plan, actor, started=started)
            if found is None:
                raise
            return found

    async def _recorded(
        self,
        deed: Callable[[Connection], Awaitable[StoredRun]],
        plan: training_pb2.RunPlan,
        sites: Sequence[StoredSite],
        decision: Decision,
        actor: str,
    ) -> RunView:
        """Does a deed in a transaction; a budget that is used up is on record, too."""
        try:
            async with self._database.transaction() as connection:
                view = await view_of(connection, await deed(connection))
        except AegisError as error:
            if error.reason == "PRIVACY_BUDGET_EXHAUSTED":
                await self._admission.record_refusal(
                    plan, actor, len(sites), decision, action="start", reason=error.reason
                )
            raise
        await self._changes.tell()
        return view

    async def _begin(
        self,
        connection: Connection,
        run: StoredRun,
        plan: training_pb2.RunPlan,
        sites: Sequence[StoredSite],
        decision: Decision,
        request_id: UUID,
        actor: str,
    ) -> StoredRun:
        await store.set_starter(
            connection,
            run.run_id,
            request_id=request_id,
            actor=actor,
            policy_revision=decision.revision,
            rule_id=decision.rule_id,
        )
        budget = await self._budget.reserve(connection, run, plan, sites, at=self._clock())
        return await move(
            connection,
            self._audit,
            await require(connection, run.run_id),
            state=State.STATE_STARTING,
            reason="",
            actor=actor,
            action="start",
            at=self._clock(),
            details=_details(run, plan, sites) | budget,
            evidence={"plan": run.plan},
        )

    async def _dataset(self, name: str) -> Dataset | None:
        try:
            return await self._find(name)
        except (UnknownDataset, NotFound):
            return None

    async def _earlier(
        self, request_id: UUID, plan: training_pb2.RunPlan, actor: str, *, started: bool
    ) -> RunView | None:
        async with self._database.transaction() as connection:
            run = await store.run_of_request(connection, request_id)
            if run is None:
                return None
            same = (run.request_id, run.plan, run.creator) == (
                request_id,
                plans.canonical(plan),
                actor,
            )
            if not same or started != (run.start_request_id == request_id):
                raise _reused()
            return await view_of(connection, run)


def _details(
    run: StoredRun, plan: training_pb2.RunPlan, sites: Sequence[StoredSite]
) -> dict[str, str]:
    return details_of(plan, len(sites)) | {
        "noise_multiplier": str(run.noise_multiplier),
        "plan_sha256": digest(run.plan).hex(),
    }


def _reused() -> AlreadyExists:
    return AlreadyExists("REQUEST_ID_REUSED", "this request_id was used for another request")
