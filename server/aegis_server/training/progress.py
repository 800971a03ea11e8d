"""What coordinators do to a run: take it up, complete rounds, end it.

Each coordinator of a run has a number; an earlier one that is still alive somewhere is refused.
What is believed of a report is in `reports.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from aegis.errors import FailedPrecondition, InvalidArgument, NotFound
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis.v1 import training_pb2
from aegis_learning import parameters
from aegis_server.checkpoints.models import Ingredient, record
from aegis_server.objects.blobs import BlobStore
from aegis_server.review.standing.store import in_force
from aegis_server.review.updates import Base
from aegis_server.training import ingredients, reports, store
from aegis_server.training.assignments import Assignment, Wishes
from aegis_server.training.budget import TRIES, Budget, lost_steps, steps_so_far
from aegis_server.training.endings import Endings, require_completed
from aegis_server.training.metrics.counting import Counts
from aegis_server.training.metrics.store import participants_between, rounds_after
from aegis_server.training.noise import local_of, noises_of
from aegis_server.training.plans import planned_steps
from aegis_server.training.seats.settling import sites_of
from aegis_server.training.seats.store import StoredSite, task_steps
from aegis_server.training.starting import Find, shipped
from aegis_server.training.states import (
    OPEN_STATES,
    Changes,
    State,
    move,
    require,
    require_current,
)
from aegis_server.training.store import StoredRound, StoredRun
from aegis_server.training.units import embedded
from aegis_server.training.views import RunView, rounds_of


class Progress:
    """How runs advance. `server` is the subject in whose name the server itself ends a run."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        blobs: BlobStore,
        *,
        clock: Callable[[], datetime],
        changes: Changes,
        budget: Budget | None = None,
        server: str = "server:aegis",
        find: Find = shipped,
        counts: Counts | None = None,
    ) -> None:
        self._database = database
        self._audit = audit
        self._blobs = blobs
        self._clock = clock
        self._changes = changes
        self._endings = Endings(audit, budget or Budget(), clock=clock)
        self._server = server
        self._find = find
        self._counts = counts

    async def assignment(self, run_id: str, *, attempt: int, actor: str) -> Assignment:
        """Returns where to go on, and marks a starting run as running.

        Raises `NotFound`, or `FailedPrecondition` (STATE_CONFLICT) when the run has ended or a
        later coordinator has taken over.
        """
        async with self._database.transaction() as connection:
            run = await require(connection, run_id, lock=True)
            require_current(run, attempt)
            last = (await store.last_rounds(connection, [run_id])).get(run_id)
            plan = training_pb2.RunPlan.FromString(run.plan)
            sites = await sites_of(connection, run_id, plan)
            rounds = await rounds_of(connection, run_id)
            stored = await store.steps_of(connection, run_id)
            spent = self._least(run, last, plan, sites, stored, {})
            quarantined = await _barred(connection, plan)
            if run.state == State.STATE_STARTING:
                run = await move(
                    connection,
                    self._audit,
                    run,
                    state=State.STATE_RUNNING,
                    reason="",
                    actor=actor,
                    action="run",
                    at=self._clock(),
                )
        await self._changes.tell()
        model = await self._blobs.get(last.model_sha256) if last else b""
        state = await self._blobs.get(last.state_sha256) if last and last.state_sha256 else b""
        return Assignment(
            run=run,
            last=last,
            steps=steps_so_far(run, last),
            data=await self._find(plan.dataset),
            model=model,
            state=state,
            sites=tuple(sites),
            rounds=rounds,
            spent=spent,
            quarantined=frozenset(quarantined),
        )

    async def complete_round(
        self,
        run_id: str,
        *,
        attempt: int,
        report: training_pb2.Round,
        model: bytes,
        actor: str,
        state: bytes = b"",
        state_sha256: bytes = b"",
    ) -> Wishes:
        """Stores a round and the model after it; returns what to do now.

        Raises `InvalidArgument` (DIGEST_MISMATCH, UPDATE_…, FIELD_INVALID), `NotFound`,
        `FailedPrecondition` (STATE_CONFLICT), or `ResourceExhausted` (STORAGE_FULL). What the
        review's rows do not bear out is refused with STATE_CONFLICT, too, and that is on record.
        """
        if parameters.digest(model) != report.model_sha256:
            raise InvalidArgument("DIGEST_MISMATCH", "the model does not have its SHA-256")
        if (parameters.digest(state) if state else b"") != state_sha256:
            raise InvalidArgument("DIGEST_MISMATCH", "the state does not have its SHA-256")
        async with self._database.transaction() as connection:
            run = await require(connection, run_id)
            plan = training_pb2.RunPlan.FromString(run.plan)
            doubt = await ingredients.doubt(connection, run, plan, report, now=self._clock())
        if doubt is not None:
            await self._audit.record(ingredients.entry_of(run, report, doubt, actor=actor))
            raise ingredients.refusal(run, report, doubt)
        data = await self._find(plan.dataset)
        reports.require_model(plan, data, model)
        reports.require_state(plan, data, report.round, state)
        # Before the transaction: bytes nobody points to cost space, not correctness.
        await self._blobs.put(model)
        key_id = await self._blobs.key_of(report.model_sha256)
        if state:
            await self._blobs.put(state)
        async with self._database.transaction() as connection:
            run = await require(connection, run_id, lock=True)
            # First: a "stored" would send a coordinator that was replaced on to its next round.
            require_current(run, attempt)
            stored = await store.round_of(connection, run_id, report.round)
            if stored is not None and stored.model_sha256 == report.model_sha256:
                return Wishes.of(run, await _barred(connection, plan))
            last = (await store.last_rounds(connection, [run_id])).get(run_id)
            appended = await self._append(connection, run, last, report, actor, state_sha256)
            await record(
                connection,
                run_id=run_id,
                round=report.round,
                model_sha256=report.model_sha256,
                parent_sha256=last.model_sha256 if last else None,
                size_bytes=len(model),
                key_id=key_id,
                at=self._clock(),
                blocked=reports.blocked(appended),
                ingredients=[
                    Ingredient(each.participant, each.update_id, each.examples)
                    for each in ingredients.aggregated(report)
                ],
            )
            (measured,) = (await rounds_after(connection, run_id, report.round - 1))[:1]
            told = await participants_between(connection, run_id, report.round, report.round)
            wishes = Wishes.of(run, await _barred(connection, plan))
        if self._counts is not None:
            self._counts.completed(measured, told)
        await self._changes.tell()
        return wishes

    async def wishes(self, run_id: str, *, attempt: int) -> AsyncIterator[Wishes]:
        """Yields what is wished of a coordinator, then whenever that has changed.

        Raises `NotFound`, and `FailedPrecondition` (STATE_CONFLICT) once the run has ended or a
        later coordinator has taken over.
        """
        shown: Wishes | None = None
        while True:
            version = self._changes.version
            async with self._database.transaction() as connection:
                run = await require(connection, run_id)
            require_current(run, attempt)
            wishes = Wishes.of(run, ())
            if wishes != shown:
                yield wishes
                shown = wishes
            await self._changes.wait(version)

    async def _append(
        self,
        connection: Connection,
        run: StoredRun,
        last: StoredRound | None,
        report: training_pb2.Round,
        actor: str,
        state_sha256: bytes,
    ) -> StoredRound:
        if report.round != (last.round + 1 if last else 0):
            raise FailedPrecondition(
                "STATE_CONFLICT",
                f"round {report.round} is not the next of {run.run_id}",
                resource=run.run_id,
                state=f"round {last.round}" if last else "no round",
            )
        plan = training_pb2.RunPlan.FromString(run.plan)
        sites = await sites_of(connection, run.run_id, plan)
        before = await store.steps_of(connection, run.run_id)
        tasks = await task_steps(connection, run.run_id, report.round)
        stored, participants = reports.read(
            run,
            plan,
            report,
            sites=sites,
            accounts=reports.Accounts(before, self._least(run, last, plan, sites, before, tasks)),
            at=self._clock(),
            state_sha256=state_sha256,
        )
        await store.insert_round(connection, stored, participants)
        told = reports.entry_of(run, stored, participants, actor=actor)
        await self._audit.record_in(connection, told)
        return stored

    def _least(
        self,
        run: StoredRun,
        last: StoredRound | None,
        plan: training_pb2.RunPlan,
        sites: Iterable[StoredSite],
        stored: Mapping[str, int],
        tasks: Mapping[str, int],
    ) -> dict[str, int]:
        """Returns what each participant was asked for by now, whatever a coordinator says."""
        lost, most = lost_steps(run, last, plan), planned_steps(plan)
        return {
            site.name: min(stored.get(site.name, 0) + max(lost, tasks.get(site.name, 0)), most)
            for site in sites
        }

    async def finish(
        self,
        run_id: str,
        *,
        attempt: int,
        state: training_pb2.Run.State.ValueType,
        reason: str,
        actor: str,
        midway: bool = False,
    ) -> RunView:
        """Ends a run, or pauses it; doing it again the same way changes nothing.

        What sites were asked for `midway` through a round is paid for as if their coordinator had
        died. A pause that was taken back meanwhile leaves the run as it is: the coordinator goes
        on. Raises `NotFound` or `FailedPrecondition` (STATE_CONFLICT).
        """
        async with self._database.transaction() as connection:
            run = await require(connection, run_id, lock=True)
            last = (await store.last_rounds(connection, [run_id])).get(run_id)
            if run.state == state:
                return RunView(run, last)
            require_current(run, attempt)
            if state == State.STATE_PAUSED and run.state != State.STATE_PAUSING:
                return RunView(run, last)
            if midway:
                run = await self._untold(connection, run)
            if state == State.STATE_PAUSED:
                run = await self._endings.pause(connection, run, last, actor=actor)
            elif state == State.STATE_COMPLETED:
                early = await require_completed(connection, run, last)
                run = await self._endings.end(connection, run, state, reason=early, actor=actor)
            else:
                why = reason or (run.reason if state == State.STATE_STOPPED else "")
                run = await self._endings.end(connection, run, state, reason=why, actor=actor)
        await self._changes.tell()
        return RunView(run, last)

    async def _untold(self, connection: Connection, run: StoredRun) -> StoredRun:
        """Counts one more coordinator of a run, for what this one asked for and does not tell."""
        attempt = await store.next_attempt(connection, run.run_id, self._clock())
        return replace(run, attempt=run.attempt if attempt is None else attempt)

    async def give_up(self, run_id: str, reason: str) -> None:
        """Fails a run whose coordinators keep dying."""
        async with self._database.transaction() as connection:
            run = await require(connection, run_id, lock=True)
            if run.state == State.STATE_FAILED:
                return
            require_current(run, run.attempt)
            await self._endings.end(
                connection, run, State.STATE_FAILED, reason=reason, actor=self._server
            )
        await self._changes.tell()

    async def base_of(self, run_id: str, round: int) -> Base:  # noqa: A002
        """Returns what the updates of a round change; raises `NotFound`."""
        async with self._database.transaction() as connection:
            run = await require(connection, run_id)
            before = await store.round_of(connection, run_id, round - 1)
            earlier = await store.round_of(connection, run_id, round - 2)
            made = await store.round_of(connection, run_id, round) is not None
            plan = training_pb2.RunPlan.FromString(run.plan)
            sites = await sites_of(connection, run_id, plan)
        if before is None:
            raise NotFound(
                "RESOURCE_NOT_FOUND",
                f"{run_id} has no model before round {round}",
                resource=f"{run_id} round {round}",
            )
        data = await self._find(plan.dataset)
        examples = {site.name: site.examples for site in sites}
        return Base(
            data,
            plan.model,
            before.model_sha256,
            earlier.model_sha256 if earlier else b"",
            examples=examples,
            open=run.state in OPEN_STATES,
            made=made,
            attempts=TRIES * run.attempt,
            local=local_of(plan, data),
            noises=noises_of(plan, run.noise_multiplier, examples),
            enrolled=not embedded(plan),
        )


async def _barred(connection: Connection, plan: training_pb2.RunPlan) -> set[str]:
    """Returns who is in quarantine: only who has enrolled can be, whatever a site is called."""
    return set() if embedded(plan) else await in_force(connection)
