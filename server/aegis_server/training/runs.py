"""Training runs as their owners see them: create, start, watch, pause, stop, read.

How they begin is in `starting.py`, what coordinators do to them in `progress.py`. Every change of a
run and its audit record are one transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from uuid import UUID

from aegis.errors import NotFound
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis.v1 import training_pb2
from aegis_server.policy.decisions import Decisions
from aegis_server.training import store
from aegis_server.training.admission import Admission
from aegis_server.training.budget import Budget
from aegis_server.training.endings import Endings
from aegis_server.training.starting import Find, Starting, shipped
from aegis_server.training.states import (
    ENDED_STATES,
    OPEN_STATES,
    Changes,
    State,
    conflict,
    move,
    require,
)
from aegis_server.training.store import StoredRun
from aegis_server.training.views import RunView, view_of


class Runs:
    """The runs. `budget` bounds what all runs on one data set may cost, `find` finds data sets."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        decisions: Decisions,
        *,
        clock: Callable[[], datetime],
        changes: Changes,
        budget: Budget | None = None,
        find: Find = shipped,
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._changes = changes
        self._budget = budget or Budget()
        self._endings = Endings(audit, self._budget, clock=clock)
        self._starting = Starting(
            database,
            audit,
            Admission(decisions, audit),
            clock=clock,
            changes=changes,
            budget=self._budget,
            find=find,
        )

    async def create(self, *, request_id: UUID, plan: training_pb2.RunPlan, actor: str) -> RunView:
        """As `Starting.create`."""
        return await self._starting.create(request_id=request_id, plan=plan, actor=actor)

    async def start(self, *, request_id: UUID, plan: training_pb2.RunPlan, actor: str) -> RunView:
        """As `Starting.start`."""
        return await self._starting.start(request_id=request_id, plan=plan, actor=actor)

    async def start_created(self, run_id: str, *, request_id: UUID, actor: str) -> RunView:
        """As `Starting.start_created`."""
        return await self._starting.start_created(run_id, request_id=request_id, actor=actor)

    async def get(self, run_id: str, *, rounds_after: int | None = None) -> RunView:
        """Returns a run, and its rounds behind a number; raises `NotFound`."""
        async with self._database.transaction() as connection:
            run = await require(connection, run_id)
            return await view_of(connection, run, rounds_after=rounds_after)

    async def several(self, run_ids: Sequence[str]) -> list[RunView]:
        """Returns runs with all their rounds, in the order asked for; raises `NotFound`."""
        async with self._database.transaction() as connection:
            found = await store.runs_of(connection, run_ids)
            for run_id in run_ids:
                if run_id not in found:
                    raise NotFound(
                        "RESOURCE_NOT_FOUND", f"there is no run {run_id}", resource=run_id
                    )
            return [await view_of(connection, found[run_id], rounds_after=-1) for run_id in run_ids]

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
            if state in ENDED_STATES:
                return
            await self._changes.wait(version)

    async def stop(self, run_id: str, *, reason: str, actor: str) -> RunView:
        """Asks the coordinator to stop after its round; a run without one stops at once.

        Raises `NotFound`, or `FailedPrecondition` (STATE_CONFLICT) when the run has ended.
        """
        why = reason or f"stopped by {actor}"
        async with self._database.transaction() as connection:
            run = await require(connection, run_id, lock=True)
            if run.state in (State.STATE_CREATED, State.STATE_PAUSED):
                run = await self._endings.end(
                    connection, run, State.STATE_STOPPED, reason=why, actor=actor, action="stop"
                )
            elif run.state not in OPEN_STATES:
                raise conflict(run)
            elif run.state != State.STATE_STOPPING:
                run = await self._move(connection, run, State.STATE_STOPPING, why, actor, "stop")
            view = await view_of(connection, run)
        await self._changes.tell()
        return view

    async def pause(self, run_id: str, *, reason: str, actor: str) -> RunView:
        """Asks the coordinator to pause after its round.

        Raises `NotFound`, or `FailedPrecondition` (STATE_CONFLICT) unless the run is at work.
        """
        async with self._database.transaction() as connection:
            run = await require(connection, run_id, lock=True)
            if run.state in (State.STATE_STARTING, State.STATE_RUNNING):
                why = reason or f"paused by {actor}"
                run = await self._move(connection, run, State.STATE_PAUSING, why, actor, "pause")
            elif run.state not in (State.STATE_PAUSING, State.STATE_PAUSED):
                raise conflict(run)
            view = await view_of(connection, run)
        await self._changes.tell()
        return view

    async def resume(self, run_id: str, *, actor: str) -> RunView:
        """Goes on behind the last stored round; a pause that has not begun is taken back.

        Raises `NotFound`, or `FailedPrecondition` (STATE_CONFLICT) unless it is or will be paused.
        """
        async with self._database.transaction() as connection:
            run = await require(connection, run_id, lock=True)
            if run.state == State.STATE_PAUSED:
                state = State.STATE_STARTING
            elif run.state == State.STATE_PAUSING:
                state = State.STATE_RUNNING if run.attempt else State.STATE_STARTING
            else:
                raise conflict(run)
            run = await self._move(connection, run, state, "", actor, "resume")
            view = await view_of(connection, run)
        await self._changes.tell()
        return view

    async def _move(
        self,
        connection: Connection,
        run: StoredRun,
        state: training_pb2.Run.State.ValueType,
        reason: str,
        actor: str,
        action: str,
    ) -> StoredRun:
        return await move(
            connection,
            self._audit,
            run,
            state=state,
            reason=reason,
            actor=actor,
            action=action,
            at=self._clock(),
        )
