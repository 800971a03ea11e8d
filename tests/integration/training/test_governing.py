"""Runs as governed resources: recorded, started, paused, resumed, stopped and compared."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from tests.integration.training.reviewed import bear_out

from aegis.errors import (
    AegisError,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    from_rpc_error,
)
from aegis.v1 import audit_pb2, training_pb2, training_pb2_grpc
from aegis_learning import parameters
from aegis_learning.datasets import Dataset, load
from aegis_learning.models import family
from aegis_server.privacy.ledger import Ledger
from aegis_server.training import store
from aegis_server.training.assignments import Wishes
from aegis_server.training.budget import Budget, steps_so_far
from aegis_server.training.calls import Server

Run = training_pb2.Run
Outcome = training_pb2.ParticipantRound
Plan = Callable[..., training_pb2.RunPlan]
COORDINATOR = "service:coordinator"
ADMIN = "user:admin"
MODEL = family("mlp", 30, 2)


def _model(seed: int) -> bytes:
    return parameters.encode(MODEL.initial(seed))


def _report(
    number: int, steps: dict[str, int], total: int, loss: float = 0.7
) -> training_pb2.Round:
    return training_pb2.Round(
        round=number,
        steps=total,
        accuracy=0.5,
        loss=loss,
        model_sha256=parameters.digest(_model(number)),
        participants=[
            Outcome(participant=name, steps=each, tries=1, outcome=Outcome.OUTCOME_AGGREGATED)
            for name, each in steps.items()
        ],
    )


async def _take_up(room: Any, run_id: str) -> int:
    async with room.database.transaction() as connection:
        attempt = await store.next_attempt(connection, run_id, room.runs._clock())
    await room.progress.assignment(run_id, attempt=attempt, actor=COORDINATOR)
    return int(attempt)


async def _complete(
    room: Any, run_id: str, number: int, *, attempt: int = 1, extra: int = 0, loss: float = 0.7
) -> Wishes:
    """A round of three sites and two steps each, and `extra` ones for what was lost."""
    names = ["site-1", "site-2", "site-3"] if number else []
    report = _report(number, dict.fromkeys(names, 2 + extra), 2 * number + extra, loss)
    await bear_out(room, run_id, report)
    done: Wishes = await room.progress.complete_round(
        run_id, attempt=attempt, report=report, model=_model(number), actor=COORDINATOR
    )
    return done


async def _create(room: Any, plan: training_pb2.RunPlan, **changes: Any) -> str:
    options = {"request_id": uuid.uuid4(), "plan": plan, "actor": ADMIN}
    view = await room.runs.create(**options | changes)
    return str(view.run.run_id)


async def _count(room: Any, statement: str) -> int:
    async with room.database.transaction() as connection:
        cursor = await connection.execute(statement)
        (row,) = await cursor.fetchall()
    return int(row[0])


async def _records(room: Any) -> list[tuple[str, str, str]]:
    """Who did what to runs, and what came of it."""
    async with room.database.transaction() as connection:
        cursor = await connection.execute(
            "select record from aegis.audit_record where kind = 4 order by idx"
        )
        rows = await cursor.fetchall()
    records = [audit_pb2.AuditRecord.FromString(row[0]) for row in rows]
    return [(record.actor, record.action, record.outcome) for record in records]


async def _refused(deed: Awaitable[Any], reason: str) -> AegisError:
    with pytest.raises(AegisError) as refused:
        await deed
    assert refused.value.reason == reason
    return refused.value


async def _refusal(call: Any) -> AegisError:
    with pytest.raises(grpc.RpcError) as refused:
        await call
    return from_rpc_error(refused.value)


def _private(plan: Plan, **changes: Any) -> training_pb2.RunPlan:
    private = plan(review=True, **changes)
    private.simulation = False
    return private


# Created, then started.


async def test_created_run_has_noise_and_participants_and_has_cost_nothing(
    room: Any, plan: Plan
) -> None:
    """It is on record, and no coordinator takes it up."""
    run_id = await _create(room, _private(plan))
    view = await room.runs.get(run_id)
    assert view.run.state == Run.STATE_CREATED
    assert view.run.noise_multiplier > 0
    assert [(site.name, site.node_id) for site in view.sites] == [
        ("site-1", 1),
        ("site-2", 2),
        ("site-3", 3),
    ]
    assert sum(site.examples for site in view.sites) == 391
    assert view.epsilon == 0
    assert await _count(room, "select count(*) from aegis.privacy_entry") == 0
    assert await _records(room) == [(ADMIN, "create", "created")]
    async with room.database.transaction() as connection:
        assert await store.open_runs(connection) == []
        assert await store.next_attempt(connection, run_id, room.runs._clock()) is None


async def test_created_run_is_started_once_whoever_repeats_it(room: Any, plan: Plan) -> None:
    """By its own request; the budget is reserved then, and another request is a conflict."""
    run_id = await _create(room, _private(plan))
    request_id = uuid.uuid4()
    start = {"request_id": request_id, "actor": "user:admin"}
    views = await asyncio.gather(*(room.runs.start_created(run_id, **start) for _ in range(4)))
    assert {view.run.state for view in views} == {Run.STATE_STARTING}
    assert await _count(room, "select count(*) from aegis.privacy_entry") == 1
    assert await _records(room) == [(ADMIN, "create", "created"), (ADMIN, "start", "starting")]
    other = room.runs.start_created(run_id, request_id=uuid.uuid4(), actor=ADMIN)
    await _refused(other, "STATE_CONFLICT")
    someone = room.runs.start_created(run_id, request_id=request_id, actor="user:x")
    await _refused(someone, "REQUEST_ID_REUSED")


async def test_request_ids_of_creating_and_starting_are_kept_apart(room: Any, plan: Plan) -> None:
    """A retry is the same request; the same id for another deed is a mistake."""
    created, started = uuid.uuid4(), uuid.uuid4()
    run_id = await _create(room, plan(), request_id=created)
    assert run_id == await _create(room, plan(), request_id=created)
    await room.runs.start(request_id=started, plan=plan(), actor=ADMIN)
    for deed in (
        room.runs.create(request_id=created, plan=plan(seed=8), actor=ADMIN),
        room.runs.create(request_id=created, plan=plan(), actor="user:x"),
        room.runs.create(request_id=started, plan=plan(), actor=ADMIN),
        room.runs.start(request_id=created, plan=plan(), actor=ADMIN),
        room.runs.start_created(run_id, request_id=created, actor=ADMIN),
        room.runs.start_created(run_id, request_id=started, actor=ADMIN),
    ):
        await _refused(deed, "REQUEST_ID_REUSED")
    assert (await room.runs.get(run_id)).run.state == Run.STATE_CREATED


async def test_creation_is_still_the_same_request_once_another_has_started_the_run(
    room: Any, plan: Plan
) -> None:
    """`actor` is who started it, and who created it can still repeat that."""
    request_id = uuid.uuid4()
    run_id = await _create(room, plan(), request_id=request_id, actor="user:admin")
    async with room.database.transaction() as connection:
        await connection.execute("update aegis.run set actor = 'user:olga'")
    assert run_id == await _create(room, plan(), request_id=request_id)


async def test_policy_is_asked_again_when_a_created_run_starts(room: Any, plan: Plan) -> None:
    """What was allowed on the day of the plan may be denied today; that is on record, too."""
    run_id = await _create(room, plan(target_epsilon=8.0))
    async with room.database.transaction() as connection:
        stored = await store.run_of(connection, run_id)
        stricter = training_pb2.RunPlan.FromString(stored.plan)
        stricter.review, stricter.simulation = False, False
        await connection.execute(
            "update aegis.run set plan = %s where run_id = %s",
            (stricter.SerializeToString(deterministic=True), run_id),
        )
    refusal = await _refused(
        room.runs.start_created(run_id, request_id=uuid.uuid4(), actor=ADMIN), "POLICY_DENIED"
    )
    assert refusal.metadata["rule_id"] == "no-run-without-review"
    assert (await _records(room))[-1] == (ADMIN, "start", "deny")
    assert (await room.runs.get(run_id)).run.state == Run.STATE_CREATED


async def test_policy_sees_who_takes_part_and_how(room: Any, plan: Plan) -> None:
    """The attributes are in the record of the decision's consequence."""
    await _create(room, plan())
    async with room.database.transaction() as connection:
        cursor = await connection.execute("select record from aegis.audit_record where kind = 4")
        ((row,),) = await cursor.fetchall()
    details = audit_pb2.AuditRecord.FromString(row).details
    wanted = {"sites": "embedded", "participants": "3", "privacy_unit": "record", "app": ""}
    assert wanted == {name: details[name] for name in wanted}


async def test_budget_of_the_day_decides_when_a_created_run_starts(room: Any, plan: Plan) -> None:
    """Both could be created; the second no longer fits. It stays, to be started after a reset."""
    first, second = [await _create(room, _private(plan, target_epsilon=10.0)) for _ in range(2)]
    await room.runs.start_created(first, request_id=uuid.uuid4(), actor=ADMIN)
    room.runs._starting._budget = Budget(Ledger(epsilon=12.0))
    start = room.runs.start_created(second, request_id=uuid.uuid4(), actor=ADMIN)
    await _refused(start, "PRIVACY_BUDGET_EXHAUSTED")
    assert (await _records(room))[-1] == (ADMIN, "start", "refused")
    assert (await room.runs.get(second)).run.state == Run.STATE_CREATED
    assert await _count(room, "select count(*) from aegis.privacy_entry") == 1


async def test_plan_is_refused_before_anything_is_recorded(room: Any, plan: Plan) -> None:
    """By create as by start, at the door as inside."""
    stub = await room.as_admin()
    for bad, field in (
        (plan(per_round=1), "plan.per_round"),
        (plan(delta=0.5), "plan.delta"),
        (plan(delta=1.0), "plan.delta"),
        (plan(target_epsilon=-1.0), "plan.target_epsilon"),
    ):
        request = training_pb2.CreateRunRequest(request_id=str(uuid.uuid4()), plan=bad)
        refusal = await _refusal(stub.CreateRun(request, timeout=5))
        assert refusal.reason == "FIELD_INVALID"
        assert [violation.field for violation in refusal.violations] == [field]
    assert await _count(room, "select count(*) from aegis.run") == 0


async def test_start_names_a_plan_or_a_run_and_not_both(room: Any, plan: Plan) -> None:
    """The contract says so itself; an unknown run is not found."""
    stub = await room.as_admin()
    for request in (
        training_pb2.StartRunRequest(request_id=str(uuid.uuid4())),
        training_pb2.StartRunRequest(request_id=str(uuid.uuid4()), plan=plan(), run_id="run-1"),
    ):
        assert (await _refusal(stub.StartRun(request, timeout=5))).reason == "FIELD_INVALID"
    request = training_pb2.StartRunRequest(request_id=str(uuid.uuid4()), run_id="run-1")
    assert (await _refusal(stub.StartRun(request, timeout=5))).reason == "RESOURCE_NOT_FOUND"


# Enrolled participants.


async def _enrol(
    room: Any,
    name: str,
    rows: int | None,
    *,
    state: int = 2,
    most: int = 500,
    dataset: str = "breast-cancer",
) -> None:
    async with room.database.transaction() as connection:
        await connection.execute(
            "insert into aegis.participant (name, state, invited_by, invited_at, secret_sha256,"
            " invitation_ends_at) values (%s, %s, 'user:admin', now(), %s, now())",
            (name, state, bytes(32)),
        )
        await connection.execute(
            "insert into aegis.holding (participant, dataset, rows_max, rows)"
            " values (%s, %s, %s, %s)",
            (name, dataset, most, rows),
        )


def _enrolled(plan: Plan, **changes: Any) -> training_pb2.RunPlan:
    return _private(plan, sites=training_pb2.SITES_ENROLLED, participants=2, **changes)


async def test_run_of_enrolled_participants_weighs_them_by_what_they_were_let_in_with(
    room: Any, plan: Plan
) -> None:
    """Declared rows, as many as it was invited with; not who is revoked or has declared none."""
    await _enrol(room, "north", 120)
    await _enrol(room, "south", 400, most=300)
    await _enrol(room, "gone", 100, state=3)
    await _enrol(room, "silent", None)
    run_id = await _create(room, _enrolled(plan))
    view = await room.runs.get(run_id)
    assert [(site.name, site.examples) for site in view.sites] == [("north", 120), ("south", 300)]
    assert min(site.node_id for site in view.sites) > 1000


async def test_run_of_names_takes_those_and_nobody_else(room: Any, plan: Plan) -> None:
    """And says who of them is missing."""
    for name in ("north", "south", "west"):
        await _enrol(room, name, 100)
    run_id = await _create(room, _enrolled(plan, names=["west", "north"]))
    assert [site.name for site in (await room.runs.get(run_id)).sites] == ["north", "west"]
    refusal = await _refused(
        _create(room, _enrolled(plan, names=["north", "east"])), "PARTICIPANTS_MISSING"
    )
    assert (refusal.metadata["enrolled"], refusal.metadata["needed"]) == ("1", "2")
    assert "missing: east" in refusal.message


async def test_run_that_waited_is_not_started_without_its_participants(
    room: Any, plan: Plan
) -> None:
    """One was revoked since; the weights of the others are still those of the creation."""
    await _enrol(room, "north", 100)
    await _refused(_create(room, _enrolled(plan)), "PARTICIPANTS_MISSING")
    await _enrol(room, "south", 100)
    run_id = await _create(room, _enrolled(plan))
    async with room.database.transaction() as connection:
        await connection.execute("update aegis.participant set state = 3 where name = 'south'")
        await connection.execute("update aegis.holding set rows = 7 where participant = 'north'")
    start = room.runs.start_created(run_id, request_id=uuid.uuid4(), actor=ADMIN)
    await _refused(start, "PARTICIPANTS_MISSING")
    assert [site.examples for site in (await room.runs.get(run_id)).sites] == [100, 100]


async def test_enrolled_participants_pay_for_their_tasks_whatever_is_reported(
    room: Any, plan: Plan
) -> None:
    """Fewer steps than tasks were given out are refused, and the end settles by the tasks."""
    await _enrol(room, "north", 100)
    await _enrol(room, "south", 100)
    run_id = (
        await room.runs.start(request_id=uuid.uuid4(), plan=_enrolled(plan), actor=ADMIN)
    ).run.run_id
    await _take_up(room, run_id)
    await _complete(room, run_id, 0)
    async with room.database.transaction() as connection:
        for repeat, steps in ((0, 2), (1, 1)):
            await connection.execute(
                "insert into aegis.training_task (task_id, run_id, round, repeat, participant,"
                " message_type, group_id, content_sha256, content_size_bytes, answer_bytes_max,"
                " nonce, steps, created_at, deadline, ended, closed_at, steps_spent)"
                " values (%s, %s, 1, %s, 'north', 'train', '', %s, 1, 1, %s, 2, now(), now(), 1,"
                " now(), %s)",
                (f"task-{repeat}", run_id, repeat, bytes(32), bytes(16), steps),
            )
    complete = {"attempt": 1, "model": _model(1), "actor": COORDINATOR}
    report = _report(1, {"north": 2, "south": 2}, 2)
    await bear_out(room, run_id, report)
    with pytest.raises(InvalidArgument, match=r"participants\[0\]\.steps must be between 3 and 6"):
        await room.progress.complete_round(run_id, report=report, **complete)
    report = _report(1, {"north": 3, "south": 2}, 3)
    await bear_out(room, run_id, report)
    await room.progress.complete_round(run_id, report=report, **complete)
    await room.progress.finish(
        run_id, attempt=1, state=Run.STATE_FAILED, reason="", actor=COORDINATOR
    )
    view = await room.runs.get(run_id)
    assert view.run.steps_settled == 3
    assert 0 < view.epsilon < 8


# What is reported of a round.


async def test_participants_of_a_round_are_kept_with_what_they_cost(room: Any, plan: Plan) -> None:
    """Each has its own epsilon; weights are the run's, whatever the coordinator says."""
    run_id = await room.start(plan())
    await _take_up(room, run_id)
    await _complete(room, run_id, 0)
    report = _report(1, {"site-1": 2, "site-2": 4}, 4)
    report.participants[0].examples = 10**6
    report.participants[1].seconds, report.participants[1].bytes_received = 1.5, 99
    report.participants[1].tries = 2
    report.participants.add(
        participant="site-3", outcome=Outcome.OUTCOME_NOT_ASKED, reason="not drawn"
    )
    await room.progress.complete_round(
        run_id, attempt=1, report=report, model=_model(1), actor=COORDINATOR
    )
    stub = await room.as_admin()
    run = (await stub.GetRun(training_pb2.GetRunRequest(run_id=run_id), timeout=5)).run
    one, two, three = run.rounds[1].participants
    weights = {site.name: site.examples for site in run.participants}
    assert one.examples == weights["site-1"] < 391
    assert 0 == three.epsilon < one.epsilon < two.epsilon == run.rounds[1].epsilon == run.epsilon
    assert (two.tries, two.steps, two.seconds, two.bytes_received) == (2, 4, 1.5, 99)
    assert three.reason == "not drawn"


@pytest.mark.parametrize(
    ("steps", "total", "field"),
    [
        ({"site-9": 2}, 2, "header.round.participants[0].participant"),
        ({"site-1": 1}, 1, "header.round.participants[0].steps"),
        ({"site-1": 7}, 7, "header.round.participants[0].steps"),
        ({"site-1": -1}, 0, "header.round.participants[0].steps"),
        ({"site-1": 2, "site-2": 3}, 2, "header.round.steps"),
    ],
)
async def test_report_that_does_not_add_up_is_refused_by_field(
    room: Any, plan: Plan, steps: dict[str, int], total: int, field: str
) -> None:
    """Nobody outside the run, no fewer steps than trained, no more than planned, the right sum."""
    run_id = await room.start(plan())
    await _take_up(room, run_id)
    await _complete(room, run_id, 0)
    with pytest.raises(InvalidArgument) as refused:
        await room.progress.complete_round(
            run_id,
            attempt=1,
            report=_report(1, steps, total),
            model=_model(1),
            actor=COORDINATOR,
        )
    assert field in [violation.field for violation in refused.value.violations]
    assert (await room.runs.get(run_id)).last.round == 0


async def test_participant_a_dead_coordinator_may_have_asked_is_not_left_out(
    room: Any, plan: Plan
) -> None:
    """Its lost steps have to be told, though it was not asked again."""
    run_id = await room.start(_private(plan, rounds=5))
    await _take_up(room, run_id)
    await _complete(room, run_id, 0)
    attempt = await _take_up(room, run_id)
    report = _report(1, {"site-1": 6, "site-2": 6}, 6)
    await bear_out(room, run_id, report)
    with pytest.raises(InvalidArgument, match="must say what site-3 was asked for"):
        await room.progress.complete_round(
            run_id, attempt=attempt, report=report, model=_model(1), actor=COORDINATOR
        )
    await _complete(room, run_id, 1, attempt=attempt, extra=4)


async def test_full_disk_is_said_as_such_and_nothing_is_stored(
    room: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round can be completed once there is room."""
    run_id = await room.start(plan())
    await _take_up(room, run_id)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ResourceExhausted) as refused:
            await _complete(room, run_id, 0)
    assert refused.value.reason == "STORAGE_FULL"
    assert await _count(room, "select count(*) from aegis.run_round") == 0
    await _complete(room, run_id, 0)


# Paused, resumed, stopped.


async def test_pause_is_told_behind_the_round_and_leaves_the_reservation(
    room: Any, plan: Plan
) -> None:
    """PAUSING, then PAUSED with the reason; nobody coordinates a paused run."""
    run_id = await room.start(_private(plan))
    await _take_up(room, run_id)
    await _complete(room, run_id, 0)
    for _ in range(2):
        view = await room.runs.pause(run_id, reason="lunch", actor=ADMIN)
        assert view.run.state == Run.STATE_PAUSING
    assert await _complete(room, run_id, 1) == Wishes(pause=True)
    finish = {"attempt": 1, "reason": "", "actor": COORDINATOR}
    view = await room.progress.finish(run_id, state=Run.STATE_PAUSED, **finish)
    assert (view.run.state, view.run.reason) == (Run.STATE_PAUSED, "lunch")
    assert await _count(room, "select steps from aegis.privacy_entry") == 6
    async with room.database.transaction() as connection:
        assert await store.open_runs(connection) == []
    await _refused(_complete(room, run_id, 2), "STATE_CONFLICT")


async def test_resumed_run_goes_on_and_a_pause_costs_no_privacy(room: Any, plan: Plan) -> None:
    """The coordinator that paused had told everything, so nothing counts as lost."""
    run_id = await room.start(_private(plan))
    await _take_up(room, run_id)
    await _complete(room, run_id, 0)
    await room.runs.pause(run_id, reason="", actor=ADMIN)
    await _complete(room, run_id, 1)
    await room.progress.finish(
        run_id, attempt=1, state=Run.STATE_PAUSED, reason="", actor=COORDINATOR
    )
    view = await room.runs.resume(run_id, actor=ADMIN)
    assert (view.run.state, view.run.reason) == (Run.STATE_STARTING, "")
    attempt = await _take_up(room, run_id)
    assignment = await room.progress.assignment(run_id, attempt=attempt, actor=COORDINATOR)
    assert (assignment.steps, dict(assignment.spent)) == (
        2,
        {"site-1": 2, "site-2": 2, "site-3": 2},
    )
    await _complete(room, run_id, 2, attempt=attempt)
    outcomes = [(action, outcome) for _, action, outcome in await _records(room)]
    assert ("pause", "pausing") in outcomes
    assert ("finish", "paused") in outcomes
    assert ("resume", "starting") in outcomes


async def test_pause_by_a_coordinator_that_followed_a_dead_one_forgets_nothing(
    room: Any, plan: Plan
) -> None:
    """What the first may have sent is told by no round yet."""
    run_id = await room.start(_private(plan, rounds=9))
    await _take_up(room, run_id)
    await _complete(room, run_id, 0)
    await _take_up(room, run_id)
    await room.runs.pause(run_id, reason="", actor=ADMIN)
    await room.progress.finish(
        run_id, attempt=2, state=Run.STATE_PAUSED, reason="", actor=COORDINATOR
    )
    view = await room.runs.get(run_id)
    assert steps_so_far(view.run, view.last) >= 4


async def test_pause_that_is_taken_back_in_time_leaves_the_run_at_work(
    room: Any, plan: Plan
) -> None:
    """The coordinator that had been told asks, and goes on."""
    run_id = await room.start(plan())
    await _take_up(room, run_id)
    await _complete(room, run_id, 0)
    await room.runs.pause(run_id, reason="", actor=ADMIN)
    assert (await room.runs.resume(run_id, actor=ADMIN)).run.state == Run.STATE_RUNNING
    finish = {"attempt": 1, "reason": "", "actor": COORDINATOR}
    view = await room.progress.finish(run_id, state=Run.STATE_PAUSED, **finish)
    assert view.run.state == Run.STATE_RUNNING
    assert await _complete(room, run_id, 1) == Wishes()


async def test_run_that_was_not_taken_up_yet_can_be_paused_and_resumed(
    room: Any, plan: Plan
) -> None:
    """STARTING again, not RUNNING: nobody runs it."""
    run_id = await room.start(plan())
    await room.runs.pause(run_id, reason="", actor=ADMIN)
    assert (await room.runs.resume(run_id, actor=ADMIN)).run.state == Run.STATE_STARTING


async def test_created_or_paused_run_is_stopped_at_once(room: Any, plan: Plan) -> None:
    """What it reserved and did not use is given back."""
    created = await _create(room, _private(plan))
    view = await room.runs.stop(created, reason="changed my mind", actor=ADMIN)
    assert (view.run.state, view.run.reason) == (Run.STATE_STOPPED, "changed my mind")
    run_id = await room.start(_private(plan))
    await _take_up(room, run_id)
    await _complete(room, run_id, 0)
    await room.runs.pause(run_id, reason="", actor=ADMIN)
    await _complete(room, run_id, 1)
    await room.progress.finish(
        run_id, attempt=1, state=Run.STATE_PAUSED, reason="", actor=COORDINATOR
    )
    assert (await room.runs.stop(run_id, reason="", actor=ADMIN)).run.state == Run.STATE_STOPPED
    assert await _count(room, "select steps from aegis.privacy_entry") == 2
    assert (await _records(room))[-1] == (ADMIN, "stop", "stopped")


async def test_states_forbid_what_makes_no_sense(room: Any, plan: Plan) -> None:
    """Typed, with the state; an unknown run is not found by any of them."""
    created = await _create(room, plan())
    await _refused(room.runs.pause(created, reason="", actor=ADMIN), "STATE_CONFLICT")
    refusal = await _refused(room.runs.resume(created, actor=ADMIN), "STATE_CONFLICT")
    assert refusal.metadata["state"] == "CREATED"
    running = await room.start(plan())
    await _take_up(room, running)
    await _refused(room.runs.resume(running, actor=ADMIN), "STATE_CONFLICT")
    await room.runs.stop(running, reason="", actor=ADMIN)
    await _refused(room.runs.pause(running, reason="", actor=ADMIN), "STATE_CONFLICT")
    stub = await room.as_admin()
    for call in (
        stub.PauseRun(training_pb2.PauseRunRequest(run_id="run-0"), timeout=5),
        stub.ResumeRun(training_pb2.ResumeRunRequest(run_id="run-0"), timeout=5),
        stub.CompareRuns(training_pb2.CompareRunsRequest(run_ids=["run-0", created]), timeout=5),
    ):
        assert (await _refusal(call)).reason == "RESOURCE_NOT_FOUND"


async def test_only_who_may_pauses_and_resumes(room: Any, plan: Plan) -> None:
    """The autopilot's certificate is good, but not for this."""
    run_id = await room.start(plan())
    stub = training_pb2_grpc.TrainingServiceStub(await room.channel("autopilot"))
    for call in (
        stub.CreateRun(
            training_pb2.CreateRunRequest(request_id=str(uuid.uuid4()), plan=plan()), timeout=5
        ),
        stub.PauseRun(training_pb2.PauseRunRequest(run_id=run_id), timeout=5),
        stub.ResumeRun(training_pb2.ResumeRunRequest(run_id=run_id), timeout=5),
    ):
        assert (await _refusal(call)).reason == "POLICY_DENIED"


async def test_run_is_complete_before_its_last_round_only_where_the_plan_says_so(
    room: Any, plan: Plan
) -> None:
    """The server looks at the losses itself, and gives the reason itself."""
    stop = training_pb2.EarlyStop(patience=2)
    run_id = await room.start(plan(rounds=9, early_stop=stop))
    await _take_up(room, run_id)
    await _complete(room, run_id, 0, loss=0.5)
    await _complete(room, run_id, 1, loss=0.6)
    finish = {"attempt": 1, "state": Run.STATE_COMPLETED, "actor": COORDINATOR}
    with pytest.raises(FailedPrecondition, match="has not completed its rounds"):
        await room.progress.finish(run_id, reason="stopped early, believe me", **finish)
    await _complete(room, run_id, 2, loss=0.7)
    view = await room.progress.finish(run_id, reason="", **finish)
    assert view.run.reason.startswith("stopped early: no gain on round 0 (loss 0.5000)")
    assert await _count(room, "select steps from aegis.privacy_entry") == 4


# Side by side.


async def test_runs_are_compared_field_by_field(room: Any, plan: Plan) -> None:
    """Settings by their path, durations as values, in the order asked for."""
    one = await room.start(plan())
    other = plan(
        seed=9,
        strategy=training_pb2.STRATEGY_FED_MEDIAN,
        settings=training_pb2.StrategySettings(malicious=1),
        min_participants=3,
    )
    other.grace.FromSeconds(5)
    two = await _create(room, other)
    stub = await room.as_admin()
    request = training_pb2.CompareRunsRequest(run_ids=[two, one])
    compared = await stub.CompareRuns(request, timeout=5)
    assert [run.run_id for run in compared.runs] == [two, one]
    assert {each.field: tuple(each.values) for each in compared.differences} == {
        "strategy": ("STRATEGY_FED_MEDIAN", "STRATEGY_FED_AVG"),
        "seed": ("9", "7"),
        "min_participants": ("3", "2"),
        "settings.malicious": ("1", "0"),
        "grace": ("5s", ""),
    }


async def test_participants_are_said_by_get_and_not_by_list(room: Any, plan: Plan) -> None:
    """A list of runs is not a list of everybody in them."""
    run_id = await _create(room, plan())
    stub = await room.as_admin()
    (listed,) = (await stub.ListRuns(training_pb2.ListRunsRequest(), timeout=5)).runs
    found = (await stub.GetRun(training_pb2.GetRunRequest(run_id=run_id), timeout=5)).run
    assert (len(listed.participants), len(found.participants)) == (0, 3)


async def test_assignment_says_what_the_run_is_about_and_how_it_went(room: Any, plan: Plan) -> None:
    """Data set, participants, rounds and steps; rows of what ships are not sent."""
    run_id = await room.start(plan())
    attempt = await _take_up(room, run_id)
    await _complete(room, run_id, 0)
    await _complete(room, run_id, 1)
    stub = training_pb2_grpc.CoordinatorServiceStub(await room.channel("coordinator"))
    request = training_pb2.GetAssignmentRequest(run_id=run_id, attempt=attempt)
    answers = [part async for part in stub.GetAssignment(request, timeout=5)]
    assignment = answers[0].assignment
    assert (assignment.dataset.name, len(assignment.dataset.schema.features)) == (
        "breast-cancer",
        30,
    )
    assert [site.name for site in assignment.run.participants] == ["site-1", "site-2", "site-3"]
    assert [len(round_.participants) for round_ in assignment.rounds] == [0, 3]
    assert dict(assignment.spent) == {"site-1": 2, "site-2": 2, "site-3": 2}
    assert assignment.evaluation_size_bytes == 0
    assert not any(part.evaluation_chunk for part in answers)


async def test_rows_of_a_registered_data_set_reach_the_coordinator(
    room: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden and test rows, and the schema by which sites read theirs; no row of a site."""
    shipped = load("breast-cancer")
    registered = dataclasses.replace(shipped, name="registered", train=None, public=False)

    async def find(name: str) -> Dataset:
        return registered

    monkeypatch.setattr(room.runs._starting, "_find", find)
    monkeypatch.setattr(room.progress, "_find", find)
    await _enrol(room, "north", 100, dataset="registered")
    await _enrol(room, "south", 100, dataset="registered")
    view = await room.runs.start(
        request_id=uuid.uuid4(), plan=_enrolled(plan, dataset="registered"), actor=ADMIN
    )
    attempt = await _take_up(room, view.run.run_id)
    server = Server(await room.channel("coordinator"), view.run.run_id, attempt)
    position = await server.assignment()
    assert position.data.schema == shipped.schema
    assert (position.data.train, position.data.public) == (None, False)
    for name in ("golden", "test"):
        sent, kept = getattr(position.data, name), getattr(shipped, name)
        assert np.array_equal(sent.x, kept.x)
        assert np.array_equal(sent.y, kept.y)
    assert [site.name for site in position.sites] == ["north", "south"]
