"""What coordinators do to a run: take it up, complete rounds, end it.

A coordinator is believed as little as possible: the model must be a model, the steps must fit the
plan, and epsilon is computed here from noise, rate and steps. Each coordinator of a run has a
number; an earlier one that is still alive somewhere is refused.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from aegis.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
)
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis.v1 import training_pb2
from aegis_learning import parameters
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.datasets import load
from aegis_server.checkpoints.models import Ingredient, record
from aegis_server.objects.blobs import BlobStore
from aegis_server.privacy.ledger import Ledger
from aegis_server.review.updates import Base
from aegis_server.training import plans, store, strategies
from aegis_server.training.budget import epsilon_of, settlement, steps_paid, steps_so_far
from aegis_server.training.runs import RunView
from aegis_server.training.states import (
    OPEN_STATES,
    Changes,
    State,
    ended,
    entry,
    move,
    require,
)
from aegis_server.training.store import StoredParticipant, StoredRound, StoredRun


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where a coordinator goes on.

    `model` is the model after `last`, empty before round 0, and `state` what the strategy
    remembered then.
    """

    run: StoredRun
    last: StoredRound | None
    steps: int
    model: bytes
    state: bytes = b""


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
        ledger: Ledger | None = None,
        server: str = "server:aegis",
    ) -> None:
        self._database = database
        self._audit = audit
        self._blobs = blobs
        self._clock = clock
        self._changes = changes
        self._ledger = ledger or Ledger()
        self._server = server

    async def assignment(self, run_id: str, *, attempt: int, actor: str) -> Assignment:
        """Returns where to go on, and marks a starting run as running.

        Raises `NotFound`, or `FailedPrecondition` (STATE_CONFLICT) when the run has ended or a
        later coordinator has taken over.
        """
        async with self._database.transaction() as connection:
            run = await require(connection, run_id, lock=True)
            require_current(run, attempt)
            last = (await store.last_rounds(connection, [run_id])).get(run_id)
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
        return Assignment(run, last, steps_so_far(run, last), model, state)

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
    ) -> bool:
        """Stores a round and the model after it; returns whether to stop now.

        Raises `InvalidArgument` (DIGEST_MISMATCH, UPDATE_…, FIELD_INVALID), `NotFound`, or
        `FailedPrecondition` (STATE_CONFLICT).
        """
        if parameters.digest(model) != report.model_sha256:
            raise InvalidArgument("DIGEST_MISMATCH", "the model does not have its SHA-256")
        if (parameters.digest(state) if state else b"") != state_sha256:
            raise InvalidArgument("DIGEST_MISMATCH", "the state does not have its SHA-256")
        async with self._database.transaction() as connection:
            run = await require(connection, run_id)
        require_model(run, model)
        require_state(run, report.round, state)
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
                return run.state == State.STATE_STOPPING
            last = (await store.last_rounds(connection, [run_id])).get(run_id)
            await self._append(connection, run, last, report, actor, state_sha256)
            await record(
                connection,
                run_id=run_id,
                round=report.round,
                model_sha256=report.model_sha256,
                parent_sha256=last.model_sha256 if last else None,
                size_bytes=len(model),
                key_id=key_id,
                at=self._clock(),
                ingredients=[
                    Ingredient(each.participant, each.update_id, each.examples)
                    for each in report.participants
                    if each.outcome == training_pb2.ParticipantRound.OUTCOME_AGGREGATED
                ],
            )
        await self._changes.tell()
        return run.state == State.STATE_STOPPING

    async def _append(
        self,
        connection: Connection,
        run: StoredRun,
        last: StoredRound | None,
        report: training_pb2.Round,
        actor: str,
        state_sha256: bytes,
    ) -> None:
        if report.round != (last.round + 1 if last else 0):
            raise FailedPrecondition(
                "STATE_CONFLICT",
                f"round {report.round} is not the next of {run.run_id}",
                resource=run.run_id,
                state=f"round {last.round}" if last else "no round",
            )
        require_steps(run, last, report)
        epsilon = epsilon_of(run, report.steps)
        # Exact figures about private rows would escape the accountant, whoever sent them.
        public = training_pb2.RunPlan.FromString(run.plan).simulation
        stored = StoredRound(
            run_id=run.run_id,
            round=report.round,
            attempt=run.attempt,
            model_sha256=report.model_sha256,
            accuracy=report.accuracy,
            loss=report.loss,
            epsilon=epsilon,
            steps=report.steps,
            completed_at=self._clock(),
            state_sha256=state_sha256,
        )
        participants = [
            StoredParticipant(
                run_id=run.run_id,
                round=report.round,
                participant=p.participant,
                loss=p.loss if public else 0.0,
                accuracy=p.accuracy if public else 0.0,
                epsilon=epsilon,
                examples=p.examples,
                outcome=p.outcome,
                update_id=p.update_id,
                reason=p.reason,
            )
            for p in report.participants
        ]
        await store.insert_round(connection, stored, participants)
        aggregated = training_pb2.ParticipantRound.OUTCOME_AGGREGATED
        await self._audit.record_in(
            connection,
            entry(
                run,
                actor=actor,
                action="complete_round",
                outcome="completed",
                details={
                    "round": str(report.round),
                    "model_sha256": report.model_sha256.hex(),
                    "accuracy": f"{report.accuracy:.6f}",
                    "epsilon": f"{epsilon:.6f}",
                    "aggregated": str(sum(p.outcome == aggregated for p in participants)),
                    "left_out": str(sum(p.outcome != aggregated for p in participants)),
                    "update_ids": ",".join(
                        p.update_id for p in participants if p.outcome == aggregated and p.update_id
                    ),
                },
                # Whose data the model was trained on, and who was left out.
                evidence={"participants.json": _by_outcome(participants)},
            ),
        )

    async def finish(
        self,
        run_id: str,
        *,
        attempt: int,
        state: training_pb2.Run.State.ValueType,
        reason: str,
        actor: str,
    ) -> RunView:
        """Ends a run; ending it again the same way changes nothing.

        Raises `NotFound` or `FailedPrecondition` (STATE_CONFLICT).
        """
        run, last = await self._end(run_id, attempt, state, reason, actor)
        return RunView(run, last)

    async def give_up(self, run_id: str, reason: str) -> None:
        """Fails a run whose coordinators keep dying."""
        await self._end(run_id, None, State.STATE_FAILED, reason, self._server)

    async def _end(
        self,
        run_id: str,
        attempt: int | None,
        state: training_pb2.Run.State.ValueType,
        reason: str,
        actor: str,
    ) -> tuple[StoredRun, StoredRound | None]:
        async with self._database.transaction() as connection:
            run = await require(connection, run_id, lock=True)
            last = (await store.last_rounds(connection, [run_id])).get(run_id)
            if run.state == state:
                return run, last
            require_current(run, run.attempt if attempt is None else attempt)
            plan = training_pb2.RunPlan.FromString(run.plan)
            if state == State.STATE_COMPLETED and (last is None or last.round < plan.rounds):
                raise FailedPrecondition(
                    "STATE_CONFLICT",
                    f"{run_id} has not completed its rounds",
                    resource=run_id,
                    state=f"round {last.round}" if last else "no round",
                )
            steps = steps_paid(replace(run, state=state), last)
            at = self._clock()
            await self._ledger.settle(connection, run_id, settlement(run, steps), at)
            stopped_by = run.reason if state == State.STATE_STOPPED else ""
            run = await move(
                connection,
                self._audit,
                run,
                state=state,
                reason=reason or stopped_by,
                actor=actor,
                action="finish",
                at=at,
                details={
                    "dataset": plan.dataset,
                    "steps": str(steps),
                    "epsilon": f"{epsilon_of(run, steps):.6f}",
                    **await self._ledger.statement(connection, plan.dataset),
                },
            )
        await self._changes.tell()
        return run, last

    async def base_of(self, run_id: str, round: int) -> Base:  # noqa: A002
        """Returns what the updates of a round change; raises `NotFound`."""
        async with self._database.transaction() as connection:
            run = await require(connection, run_id)
            before = await store.round_of(connection, run_id, round - 1)
        if before is None:
            raise NotFound(
                "RESOURCE_NOT_FOUND",
                f"{run_id} has no model before round {round}",
                resource=f"{run_id} round {round}",
            )
        plan = training_pb2.RunPlan.FromString(run.plan)
        return Base(
            plan.dataset,
            plan.model,
            before.model_sha256,
            examples=await asyncio.to_thread(plans.enrolled, run.plan),
            open=run.state in OPEN_STATES,
        )


def _by_outcome(participants: Iterable[StoredParticipant]) -> bytes:
    names: dict[str, list[str]] = {}
    for each in participants:
        outcome = training_pb2.ParticipantRound.Outcome.keys()[each.outcome]
        names.setdefault(outcome.removeprefix("OUTCOME_").lower(), []).append(each.participant)
    return json.dumps(names, sort_keys=True).encode()


def require_current(run: StoredRun, attempt: int) -> None:
    """Raises `FailedPrecondition` (STATE_CONFLICT) for an ended run or a replaced coordinator."""
    if run.state not in OPEN_STATES:
        raise ended(run)
    if run.attempt != attempt:
        raise FailedPrecondition(
            "STATE_CONFLICT",
            f"coordinator {run.attempt} has taken over {run.run_id}",
            resource=run.run_id,
            state=f"attempt {run.attempt}",
        )


def require_steps(run: StoredRun, last: StoredRound | None, report: training_pb2.Round) -> None:
    """Raises `InvalidArgument` (FIELD_INVALID) when the steps do not fit the plan."""
    plan = training_pb2.RunPlan.FromString(run.plan)
    least = steps_so_far(run, last) + (plan.local_steps if report.round else 0)
    most = plans.planned_steps(plan) if report.round else 0
    if not least <= report.steps <= most:
        description = f"must be between {least} and {most}"
        raise InvalidArgument(
            "FIELD_INVALID",
            f"round.steps {description}",
            violations=[FieldViolation("header.round.steps", description)],
        )


def require_model(run: StoredRun, model: bytes) -> None:
    """Raises `InvalidArgument` (UPDATE_…) when the bytes are not a model of this run."""
    plan = training_pb2.RunPlan.FromString(run.plan)
    _require_tensors(model, load(plan.dataset).family(plan.model).shapes)


def require_state(run: StoredRun, number: int, state: bytes) -> None:
    """Raises `InvalidArgument` unless a strategy that remembers brings its state, and no other."""
    plan = training_pb2.RunPlan.FromString(run.plan)
    shapes = (
        strategies.state_shapes(plan, load(plan.dataset).family(plan.model).shapes)
        if number
        else {}
    )
    if bool(shapes) != bool(state):
        description = "a state is missing" if shapes else "there is nothing to remember"
        raise InvalidArgument(
            "FIELD_INVALID",
            f"state: {description}",
            violations=[FieldViolation("header.state_size_bytes", description)],
        )
    if not state:
        return
    _require_tensors(state, shapes)
    try:
        strategies.rule_of(plan, state=parameters.decode(state, shapes))
    except AssumptionBroken as error:
        raise InvalidArgument("UPDATE_FORMAT_INVALID", str(error)) from error


def _require_tensors(data: bytes, shapes: parameters.Shapes) -> None:
    try:
        parameters.decode(data, shapes)
    except parameters.FormatError as error:
        raise InvalidArgument("UPDATE_FORMAT_INVALID", str(error)) from error
    except parameters.ShapeError as error:
        raise InvalidArgument("UPDATE_SHAPE_MISMATCH", str(error), tensor=error.tensor) from error
    except parameters.NotFiniteError as error:
        raise InvalidArgument("UPDATE_NOT_FINITE", str(error), tensor=error.tensor) from error
