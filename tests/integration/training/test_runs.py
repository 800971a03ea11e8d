"""The rules of a run: who may start it, what it may cost, and what a coordinator may do to it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from tests.integration.training.reviewed import bear_out

from aegis.errors import (
    AegisError,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    from_rpc_error,
)
from aegis.plans import Strategy
from aegis.v1 import audit_pb2, training_pb2, training_pb2_grpc
from aegis_learning import parameters
from aegis_learning.models import family
from aegis_server.training import store
from aegis_server.training.assignments import Wishes
from aegis_server.training.coordinators import ClaimLost

Run = training_pb2.Run
Plan = Callable[..., training_pb2.RunPlan]
COORDINATOR = "service:coordinator"
MODEL = family("mlp", 30, 2)


def _model(seed: int) -> bytes:
    return parameters.encode(MODEL.initial(seed))


def _report(number: int, steps: int, model: bytes) -> training_pb2.Round:
    """A round in which everybody took two steps; `steps` are those since the run began."""
    names = ["site-1", "site-2", "site-3"] if number else []
    return training_pb2.Round(
        round=number,
        steps=steps,
        accuracy=0.5,
        loss=0.7,
        model_sha256=parameters.digest(model),
        participants=[
            training_pb2.ParticipantRound(
                participant=name,
                examples=10,
                loss=0.6,
                accuracy=0.7,
                epsilon=0.001,
                steps=steps - 2 * (number - 1),
                outcome=training_pb2.ParticipantRound.OUTCOME_AGGREGATED,
            )
            for name in names
        ],
    )


async def _take_up(room: Any, run_id: str) -> int:
    """A coordinator takes the run up, as the supervisor and the process would do together."""
    async with room.database.transaction() as connection:
        attempt = await store.next_attempt(connection, run_id, room.runs._clock())
    await room.progress.assignment(run_id, attempt=attempt, actor=COORDINATOR)
    return int(attempt)


async def _complete(room: Any, run_id: str, number: int, steps: int, **changes: Any) -> Wishes:
    model = changes.pop("model", _model(number))
    options = {"attempt": 1, "report": _report(number, steps, model), "actor": COORDINATOR}
    options |= changes
    await bear_out(room, run_id, options["report"])
    done: Wishes = await room.progress.complete_round(run_id, model=model, **options)
    return done


async def _count(room: Any, statement: str) -> int:
    async with room.database.transaction() as connection:
        cursor = await connection.execute(statement)
        (row,) = await cursor.fetchall()
    return int(row[0])


async def _refusal(call: Any) -> AegisError:
    with pytest.raises(grpc.RpcError) as refused:
        await call
    return from_rpc_error(refused.value)


# Starting.


async def test_repeated_request_returns_the_run_it_started(room: Any, plan: Plan) -> None:
    """Also when both arrive at once; one run, one reservation, one audit record."""
    request_id = uuid.uuid4()
    starts = [
        room.runs.start(request_id=request_id, plan=plan(), actor="user:admin") for _ in range(4)
    ]
    views = await asyncio.gather(*starts)
    assert len({view.run.run_id for view in views}) == 1
    assert await _count(room, "select count(*) from aegis.privacy_entry") == 1
    assert await _count(room, "select count(*) from aegis.audit_record where kind = 4") == 1


async def test_request_id_of_another_plan_or_person_is_refused(room: Any, plan: Plan) -> None:
    """A retry is the same request by the same caller; anything else is a mistake."""
    request_id = uuid.uuid4()
    await room.runs.start(request_id=request_id, plan=plan(), actor="user:admin")
    for other in (
        {"plan": plan(seed=8), "actor": "user:admin"},
        {"plan": plan(), "actor": "user:x"},
    ):
        with pytest.raises(AlreadyExists) as refused:
            await room.runs.start(request_id=request_id, **other)
        assert refused.value.reason == "REQUEST_ID_REUSED"


async def test_policy_decides_on_what_is_in_the_plan(room: Any, plan: Plan) -> None:
    """Private data without review is denied by a named rule, and the denial is on record."""
    with pytest.raises(PermissionDenied) as refused:
        await room.start(_private(plan))
    assert refused.value.metadata["rule_id"] == "no-run-without-review"
    assert await _count(room, "select count(*) from aegis.run") == 0
    assert await _count(room, "select count(*) from aegis.audit_record where kind = 4") == 1


def _private(plan: Plan, **changes: Any) -> training_pb2.RunPlan:
    private = plan(**changes)
    private.simulation = False
    return private


async def test_budget_of_a_data_set_is_enforced_over_runs(room: Any, plan: Plan) -> None:
    """Some runs of epsilon 8 fit into 20 by composition; then no more, but simulations."""
    reviewed = _private(plan, review=True)
    with pytest.raises(FailedPrecondition) as refused:
        for _ in range(10):
            await room.start(reviewed)
    assert refused.value.reason == "PRIVACY_BUDGET_EXHAUSTED"
    assert refused.value.metadata["dataset"] == "breast-cancer"
    assert refused.value.metadata["participant"] == "*"
    assert 8 < float(refused.value.metadata["epsilon_spent"]) <= 20
    started = await _count(room, "select count(*) from aegis.run")
    assert 2 <= started < 10
    assert started == await _count(room, "select count(*) from aegis.privacy_entry")
    await room.start(plan())  # a simulation spends nothing that is private


async def test_concurrent_starts_do_not_overdraw_the_budget(room: Any, plan: Plan) -> None:
    """The check and the reservation are one."""
    reviewed = _private(plan, review=True, target_epsilon=9.0)
    results = await asyncio.gather(
        *(room.start(reviewed) for _ in range(8)), return_exceptions=True
    )
    assert all(isinstance(result, str | FailedPrecondition) for result in results)
    async with room.database.transaction() as connection:
        assert 9 < await room.runs._budget.ledger.spent(connection, "breast-cancer", "*") <= 20


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dataset": "mnist"}, "plan.dataset"),
        ({"model": "gpt"}, "plan.model"),
        ({"target_epsilon": 1e-5, "delta": 1e-12, "rounds": 500}, "plan.target_epsilon"),
        (
            {"attacks": [training_pb2.Attack(participant="site-9", kind=1, scale=2)]},
            "plan.attacks[0].participant",
        ),
    ],
)
async def test_plan_that_cannot_be_kept_names_its_fields(
    room: Any, plan: Plan, changes: dict[str, Any], field: str
) -> None:
    """Checked before anything is recorded."""
    with pytest.raises(InvalidArgument) as refused:
        await room.start(plan(**changes))
    assert [field] == [violation.field for violation in refused.value.violations]
    assert await _count(room, "select count(*) from aegis.run") == 0


# Rounds.


async def test_rounds_are_stored_once_and_in_order(room: Any, plan: Plan) -> None:
    """A repeated round is answered as before; a skipped or a different one is refused."""
    run_id = await room.start(plan())
    await _take_up(room, run_id)
    await _complete(room, run_id, 0, 0)
    await _complete(room, run_id, 1, 2)
    await _complete(room, run_id, 1, 2)
    for number, model in ((1, _model(99)), (3, _model(3)), (0, _model(99))):
        with pytest.raises(FailedPrecondition, match="is not the next"):
            await _complete(room, run_id, number, 4, model=model)
    assert await _count(room, "select count(*) from aegis.run_round") == 2
    base = await room.progress.base_of(run_id, 2)
    assert (base.data.name, base.model) == ("breast-cancer", "mlp")
    assert parameters.digest(_model(1)) == base.params_sha256
    assert _model(1) == await room.blobs.get(base.params_sha256)
    assert sum(base.examples.values()) == 391
    # Twice by each coordinator, and this run has had one.
    assert base.attempts == 2
    with pytest.raises(NotFound):
        await room.progress.base_of(run_id, 3)


async def test_epsilon_is_computed_here_whatever_the_coordinator_says(
    room: Any, plan: Plan
) -> None:
    """The report claimed 0.001."""
    run_id = await room.start(plan())
    await _take_up(room, run_id)
    await _complete(room, run_id, 0, 0)
    await _complete(room, run_id, 1, 2)
    view = await room.runs.get(run_id, rounds_after=0)
    ((found, (participant, *_)),) = view.rounds
    assert 3 < participant.epsilon == found.epsilon < 8


async def test_exact_figures_of_a_site_are_kept_in_simulations_only(room: Any, plan: Plan) -> None:
    """A site may send them anyway; they are no secret only where the data is none."""
    kept = []
    for each in (plan(), _private(plan, review=True)):
        run_id = await room.start(each)
        await _take_up(room, run_id)
        await _complete(room, run_id, 0, 0)
        await _complete(room, run_id, 1, 2)
        ((_, (participant, *_)),) = (await room.runs.get(run_id, rounds_after=0)).rounds
        kept.append((participant.loss, participant.accuracy))
    assert kept == [(0.6, 0.7), (0.0, 0.0)]


@pytest.mark.parametrize("steps", [0, 1, 7])
async def test_steps_that_do_not_fit_the_plan_are_refused(
    room: Any, plan: Plan, steps: int
) -> None:
    """Fewer than were asked for, or more than was reserved."""
    run_id = await room.start(plan())
    await _take_up(room, run_id)
    await _complete(room, run_id, 0, 0)
    with pytest.raises(InvalidArgument, match=r"steps must be"):
        await _complete(room, run_id, 1, steps)


async def test_lost_rounds_of_private_runs_are_paid_for(room: Any, plan: Plan) -> None:
    """What a dead coordinator may have sent out counts, because private noise is never repeated."""
    run_id = await room.start(_private(plan, review=True))
    await _take_up(room, run_id)
    await _complete(room, run_id, 0, 0)
    await _take_up(room, run_id)
    again = await room.progress.assignment(run_id, attempt=2, actor=COORDINATOR)
    assert again.steps == 4
    shown = (await room.runs.get(run_id)).epsilon
    await _complete(room, run_id, 1, 6, attempt=2)
    view = await room.runs.get(run_id)
    assert 0 < shown < view.epsilon == view.last.epsilon <= 8


async def test_failed_run_shows_the_epsilon_it_pays(room: Any, plan: Plan) -> None:
    """No round was completed, but what was sent out twice is not free."""
    run_id = await room.start(_private(plan, review=True))
    await _take_up(room, run_id)
    await _complete(room, run_id, 0, 0)
    await room.progress.finish(
        run_id, attempt=1, state=Run.STATE_FAILED, reason="", actor=COORDINATOR
    )
    stub = await room.as_admin()
    run = (await stub.GetRun(training_pb2.GetRunRequest(run_id=run_id), timeout=5)).run
    assert 7.9 < run.epsilon <= 8
    assert await _count(room, "select steps from aegis.privacy_entry") == 6


async def _told(room: Any, action: str) -> audit_pb2.AuditRecord:
    """The newest record about runs with this action."""
    async with room.database.transaction() as connection:
        cursor = await connection.execute(
            "select record from aegis.audit_record where kind = 4 order by idx desc"
        )
        rows = await cursor.fetchall()
    records = [audit_pb2.AuditRecord.FromString(row[0]) for row in rows]
    return next(record for record in records if record.action == action)


async def test_records_of_a_run_tell_budget_and_participants(room: Any, plan: Plan) -> None:
    """Reserved with the start, settled with the end; who is in the model, round by round."""
    run_id = await room.start(_private(plan, review=True))
    started = await _told(room, "start")
    assert started.details["budget_limit_epsilon"] == "20"
    assert started.details["budget_delta"] == "0.001"
    assert 7.9 < float(started.details["budget_spent_epsilon"]) <= 8
    await _take_up(room, run_id)
    await _complete(room, run_id, 0, 0)
    report = _report(1, 2, _model(1))
    report.participants[1].outcome = training_pb2.ParticipantRound.OUTCOME_REJECTED
    await _complete(room, run_id, 1, 2, report=report)
    shared = await _told(room, "complete_round")
    (parts,) = [each.content for each in shared.evidence if each.name == "participants.json"]
    assert json.loads(parts) == {"aggregated": ["site-1", "site-3"], "rejected": ["site-2"]}
    await room.progress.finish(
        run_id, attempt=1, state=Run.STATE_STOPPED, reason="", actor=COORDINATOR
    )
    ended = await _told(room, "finish")
    assert (ended.details["dataset"], ended.details["steps"]) == ("breast-cancer", "2")
    spent = float(ended.details["budget_spent_epsilon"])
    # The run's delta is not the budget's, so the two are not the same number.
    assert 0 < spent < 8
    assert 0 < float(ended.details["epsilon"]) < 8


async def test_simulation_leaves_the_budget_in_its_records_as_it_was(room: Any, plan: Plan) -> None:
    """It is not charged, and nobody who reads the record should think so."""
    await room.start(plan())
    assert (await _told(room, "start")).details["budget_spent_epsilon"] == "0.000000"


def _not_finite() -> bytes:
    params = MODEL.initial(1)
    params["layer1.bias"][3] = np.inf
    return parameters.encode(params)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (b"not a model", "UPDATE_FORMAT_INVALID"),
        (parameters.encode(family("logistic", 30, 2).initial(1)), "UPDATE_SHAPE_MISMATCH"),
        (_not_finite(), "UPDATE_NOT_FINITE"),
    ],
)
async def test_global_model_that_is_none_is_refused(
    room: Any, plan: Plan, model: bytes, reason: str
) -> None:
    """The server decodes what it stores."""
    run_id = await room.start(plan())
    await _take_up(room, run_id)
    with pytest.raises(InvalidArgument) as refused:
        await _complete(room, run_id, 0, 0, model=model)
    assert reason == refused.value.reason


async def test_replaced_coordinator_is_refused(room: Any, plan: Plan) -> None:
    """Attempt 1 may still be alive somewhere; attempt 2 owns the run."""
    run_id = await room.start(plan())
    await _take_up(room, run_id)
    await _complete(room, run_id, 0, 0, attempt=1)
    await _take_up(room, run_id)
    with pytest.raises(FailedPrecondition, match="coordinator 2 has taken over"):
        await _complete(room, run_id, 1, 2, attempt=1)
    # Not even told that its last round is stored: it would go on and ask every site once more.
    with pytest.raises(FailedPrecondition, match="coordinator 2 has taken over"):
        await _complete(room, run_id, 0, 0, attempt=1)
    with pytest.raises(FailedPrecondition, match="coordinator 2 has taken over"):
        await room.progress.assignment(run_id, attempt=1, actor=COORDINATOR)
    with pytest.raises(FailedPrecondition, match="coordinator 2 has taken over"):
        await room.progress.finish(
            run_id, attempt=1, state=Run.STATE_FAILED, reason="", actor=COORDINATOR
        )
    await _complete(room, run_id, 1, 2, attempt=2)


async def test_run_is_claimed_by_one_replica_at_a_time(room: Any) -> None:
    """The claim is free again as soon as its holder's transaction is gone."""
    async with room.database.transaction() as one, room.database.transaction() as other:
        assert await store.claim(one, "run-1")
        assert not await store.claim(other, "run-1")
        assert await store.claim(other, "run-2")
    async with room.database.transaction() as later:
        assert await store.claim(later, "run-1")


async def test_runs_of_another_replica_do_not_keep_this_one_from_the_next(
    room: Any, plan: Plan
) -> None:
    """With room for one, a run that somebody else has is looked at, then passed over."""
    theirs, ours = await room.start(plan()), await room.start(plan())
    room.coordinators._at_once = 1

    async def attempts(run_id: str) -> int:
        return int((await room.runs.get(run_id)).run.attempt)

    async with room.database.transaction() as other, asyncio.timeout(15):
        assert await store.claim(other, theirs)
        await room.supervise()
        while await attempts(ours) == 0:
            await asyncio.sleep(0.05)
        assert await attempts(theirs) == 0


async def test_no_coordinator_is_started_under_a_lost_claim(room: Any, plan: Plan) -> None:
    """Its number would shut out the one that whoever claimed the run has started."""
    run_id = await room.start(plan())
    with pytest.raises(ClaimLost):
        async with room.database.transaction() as claim:
            assert await store.claim(claim, run_id)
            async with room.database.transaction() as killer:
                await killer.execute("select pg_terminate_backend(%s)", (claim.info.backend_pid,))
            await room.coordinators._coordinate(run_id, claim)
    assert (await room.runs.get(run_id)).run.attempt == 0


# Ends.


async def test_run_ends_once_and_is_then_closed(room: Any, plan: Plan) -> None:
    """Finishing again the same way is harmless; anything else conflicts with the state."""
    run_id = await room.start(plan(rounds=1))
    await _take_up(room, run_id)
    finish = {"attempt": 1, "reason": "", "actor": COORDINATOR}
    with pytest.raises(FailedPrecondition, match="has not completed its rounds"):
        await room.progress.finish(run_id, state=Run.STATE_COMPLETED, **finish)
    await _complete(room, run_id, 0, 0)
    await _complete(room, run_id, 1, 2)
    await room.progress.finish(run_id, state=Run.STATE_COMPLETED, **finish)
    records = await _count(room, "select count(*) from aegis.audit_record")
    await room.progress.finish(run_id, state=Run.STATE_COMPLETED, **finish)
    assert records == await _count(room, "select count(*) from aegis.audit_record")
    for refused in (
        room.progress.finish(run_id, state=Run.STATE_FAILED, **finish),
        room.runs.stop(run_id, reason="", actor="user:admin"),
        room.progress.assignment(run_id, attempt=1, actor=COORDINATOR),
        _complete(room, run_id, 1, 2),
    ):
        with pytest.raises(FailedPrecondition) as conflict:
            await refused
        assert conflict.value.reason == "STATE_CONFLICT"
    assert not (await room.progress.base_of(run_id, 1)).open


async def test_stop_is_told_to_the_coordinator_with_its_next_round(room: Any, plan: Plan) -> None:
    """STOPPING keeps the reason until the end; the reservation shrinks to what was used."""
    run_id = await room.start(plan())
    await _take_up(room, run_id)
    assert await _complete(room, run_id, 0, 0) == Wishes()
    await room.runs.stop(run_id, reason="enough", actor="user:admin")
    assert await _complete(room, run_id, 1, 2) == Wishes(stop=True)
    await room.progress.finish(
        run_id, attempt=1, state=Run.STATE_STOPPED, reason="", actor=COORDINATOR
    )
    view = await room.runs.get(run_id)
    assert (view.run.state, view.run.reason) == (Run.STATE_STOPPED, "enough")
    assert await _count(room, "select steps from aegis.privacy_entry") == 2


async def test_watch_gives_the_past_then_every_round_then_ends(room: Any, plan: Plan) -> None:
    """No round twice, none left out, and the last view is the end."""
    run_id = await room.start(plan(rounds=2))
    await _take_up(room, run_id)
    await _complete(room, run_id, 0, 0)
    seen: list[int] = []

    async def watch() -> int:
        state = 0
        async for view in room.runs.watch(run_id):
            seen.extend(found.round for found, _ in view.rounds)
            state = view.run.state
        return state

    watching = asyncio.create_task(watch())
    await _complete(room, run_id, 1, 2)
    await _complete(room, run_id, 2, 4)
    await room.progress.finish(
        run_id, attempt=1, state=Run.STATE_COMPLETED, reason="", actor=COORDINATOR
    )
    assert await asyncio.wait_for(watching, 5) == Run.STATE_COMPLETED
    assert seen == [0, 1, 2]


# Over the wire.


async def test_runs_are_listed_newest_first_in_pages(room: Any, plan: Plan) -> None:
    """Tokens lead through all of them, and belong to this query only."""
    stub = await room.as_admin()
    started = [await room.start(plan(seed=seed)) for seed in range(5)]
    listed, token = [], ""
    while True:
        page = await stub.ListRuns(
            training_pb2.ListRunsRequest(page_size=2, page_token=token), timeout=5
        )
        listed += [run.run_id for run in page.runs]
        token = page.next_page_token
        if not token:
            break
    assert started[::-1] == listed
    refusal = await _refusal(
        stub.ListRuns(training_pb2.ListRunsRequest(page_token="bm9wZQ"), timeout=5)
    )
    assert refusal.reason == "PAGE_TOKEN_INVALID"


async def test_unknown_run_is_not_found(room: Any) -> None:
    """By every method that names one."""
    stub = await room.as_admin()
    for call in (
        stub.GetRun(training_pb2.GetRunRequest(run_id="run-0"), timeout=5),
        stub.StopRun(training_pb2.StopRunRequest(run_id="run-0"), timeout=5),
        stub.WatchRun(training_pb2.WatchRunRequest(run_id="run-0"), timeout=5).read(),
    ):
        assert (await _refusal(call)).reason == "RESOURCE_NOT_FOUND"


async def test_only_coordinators_coordinate(room: Any, plan: Plan) -> None:
    """The autopilot's certificate is good, but not for this."""
    run_id = await room.start(plan())
    stub = training_pb2_grpc.CoordinatorServiceStub(await room.channel("autopilot"))
    request = training_pb2.GetAssignmentRequest(run_id=run_id, attempt=1)
    assert (await _refusal(stub.GetAssignment(request, timeout=5).read())).reason == "POLICY_DENIED"
    assert (await room.runs.get(run_id)).run.state == Run.STATE_STARTING


@pytest.mark.parametrize("announced", [7, 10_000])
async def test_model_of_another_size_than_announced_is_refused(
    room: Any, plan: Plan, announced: int
) -> None:
    """Longer or shorter; nothing of it is stored."""
    run_id = await room.start(plan())
    await _take_up(room, run_id)
    stub = training_pb2_grpc.CoordinatorServiceStub(await room.channel("coordinator"))
    model = _model(0)
    header = training_pb2.CompleteRoundRequest.Header(
        run_id=run_id, round=_report(0, 0, model), model_size_bytes=announced, attempt=1
    )

    async def parts() -> AsyncIterator[training_pb2.CompleteRoundRequest]:
        yield training_pb2.CompleteRoundRequest(header=header)
        yield training_pb2.CompleteRoundRequest(model_chunk=model)

    assert (await _refusal(stub.CompleteRound(parts(), timeout=5))).reason == "DIGEST_MISMATCH"
    assert await _count(room, "select count(*) from aegis.run_round") == 0


# What a strategy remembers.


def _moments(value: float = 0.5, size: int = 0) -> bytes:
    size = size or sum(values.size for values in MODEL.initial(0).values())
    values = np.full(size, value, np.float32)
    return parameters.encode({"momentum": values, "variance": values})


def _adam(plan: Plan) -> training_pb2.RunPlan:
    chosen = Strategy("fed-adam")
    return plan(strategy=chosen.value, settings=chosen.settings)


async def test_state_of_a_strategy_is_given_to_the_next_coordinator(room: Any, plan: Plan) -> None:
    """Over the wire in chunks, as the model; and the first coordinator has none."""
    run_id = await room.start(_adam(plan))
    await _take_up(room, run_id)
    await _complete(room, run_id, 0, 0)
    state = _moments()
    stub = training_pb2_grpc.CoordinatorServiceStub(await room.channel("coordinator"))
    model = _model(1)
    header = training_pb2.CompleteRoundRequest.Header(
        run_id=run_id,
        round=_report(1, 2, model),
        model_size_bytes=len(model),
        attempt=1,
        state_size_bytes=len(state),
        state_sha256=parameters.digest(state),
    )

    async def parts() -> AsyncIterator[training_pb2.CompleteRoundRequest]:
        yield training_pb2.CompleteRoundRequest(header=header)
        yield training_pb2.CompleteRoundRequest(model_chunk=model)
        yield training_pb2.CompleteRoundRequest(state_chunk=state[:100])
        yield training_pb2.CompleteRoundRequest(state_chunk=state[100:])

    await stub.CompleteRound(parts(), timeout=5)
    attempt = await _take_up(room, run_id)
    request = training_pb2.GetAssignmentRequest(run_id=run_id, attempt=attempt)
    answers = [part async for part in stub.GetAssignment(request, timeout=5)]
    assert len(state) == answers[0].assignment.state_size_bytes
    assert model == b"".join(part.model_chunk for part in answers)
    assert state == b"".join(part.state_chunk for part in answers)


@pytest.mark.parametrize(
    ("state", "digest", "reason"),
    [
        (b"", b"", "FIELD_INVALID"),
        (_moments(), b"\0" * 32, "DIGEST_MISMATCH"),
        (b"no state", None, "UPDATE_FORMAT_INVALID"),
        (_moments(size=3), None, "UPDATE_SHAPE_MISMATCH"),
        (_moments(float("nan")), None, "UPDATE_NOT_FINITE"),
        (_moments(-1.0), None, "UPDATE_FORMAT_INVALID"),
    ],
)
async def test_state_that_is_none_is_refused(
    room: Any, plan: Plan, state: bytes, digest: bytes | None, reason: str
) -> None:
    """Missing, changed, no safetensors, of another model, not finite, no moments."""
    run_id = await room.start(_adam(plan))
    await _take_up(room, run_id)
    await _complete(room, run_id, 0, 0)
    sha256 = parameters.digest(state) if digest is None else digest
    with pytest.raises(InvalidArgument) as refused:
        await _complete(room, run_id, 1, 2, state=state, state_sha256=sha256)
    assert refused.value.reason == reason
    assert (await room.runs.get(run_id)).last.round == 0


async def test_strategy_that_remembers_nothing_brings_no_state(room: Any, plan: Plan) -> None:
    """Nobody would ever read it."""
    run_id = await room.start(plan())
    await _take_up(room, run_id)
    state = _moments()
    with pytest.raises(InvalidArgument, match="nothing to remember"):
        await _complete(room, run_id, 0, 0, state=state, state_sha256=parameters.digest(state))


@pytest.mark.parametrize(("announced", "reason"), [(7, "DIGEST_MISMATCH"),
                                                   (10**9, "REQUEST_TOO_LARGE")])  # fmt: skip
async def test_state_of_another_size_than_announced_is_refused(
    room: Any, plan: Plan, announced: int, reason: str
) -> None:
    """Before anything is stored; a size nobody may send is refused before anything is read."""
    run_id = await room.start(_adam(plan))
    await _take_up(room, run_id)
    stub = training_pb2_grpc.CoordinatorServiceStub(await room.channel("coordinator"))
    model, state = _model(0), _moments()
    header = training_pb2.CompleteRoundRequest.Header(
        run_id=run_id,
        round=_report(0, 0, model),
        model_size_bytes=len(model),
        attempt=1,
        state_size_bytes=announced,
        state_sha256=parameters.digest(state),
    )

    async def parts() -> AsyncIterator[training_pb2.CompleteRoundRequest]:
        yield training_pb2.CompleteRoundRequest(header=header)
        yield training_pb2.CompleteRoundRequest(model_chunk=model)
        yield training_pb2.CompleteRoundRequest(state_chunk=state)

    assert (await _refusal(stub.CompleteRound(parts(), timeout=5))).reason == reason
    assert await _count(room, "select count(*) from aegis.run_round") == 0


async def test_plan_whose_strategy_cannot_keep_its_promise_is_refused_at_the_door(
    room: Any, plan: Plan
) -> None:
    """By StartRun, with the field; nothing is reserved."""
    stub = await room.as_admin()
    bad = plan(
        strategy=training_pb2.STRATEGY_KRUM, settings=training_pb2.StrategySettings(malicious=1)
    )
    request = training_pb2.StartRunRequest(request_id=str(uuid.uuid4()), plan=bad)
    refusal = await _refusal(stub.StartRun(request, timeout=5))
    assert refusal.reason == "FIELD_INVALID"
    assert [v.field for v in refusal.violations] == ["plan.min_participants"]
    assert await _count(room, "select count(*) from aegis.privacy_entry") == 0


async def test_attack_outside_a_simulation_is_refused_at_the_door(room: Any, plan: Plan) -> None:
    """The contract says so itself."""
    stub = await room.as_admin()
    bad = _private(plan)
    bad.attacks.add(participant="site-1", kind=training_pb2.ATTACK_KIND_NOISE, scale=1)
    request = training_pb2.StartRunRequest(request_id=str(uuid.uuid4()), plan=bad)
    refusal = await _refusal(stub.StartRun(request, timeout=5))
    assert refusal.reason == "FIELD_INVALID"
    assert await _count(room, "select count(*) from aegis.run") == 0


async def test_plan_without_a_deadline_for_its_rounds_is_refused_at_the_door(
    room: Any, plan: Plan
) -> None:
    """One site that never answers would hold the run, and whoever stops it, for ever."""
    endless = plan()
    endless.ClearField("round_deadline")
    request = training_pb2.StartRunRequest(request_id=str(uuid.uuid4()), plan=endless)
    refusal = await _refusal((await room.as_admin()).StartRun(request, timeout=5))
    assert refusal.reason == "FIELD_INVALID"
    assert [violation.field for violation in refusal.violations] == ["plan.round_deadline"]


async def test_start_survives_the_client_that_hangs_up(room: Any, plan: Plan) -> None:
    """A cancelled call leaves a whole run or none, and a retry finds it."""
    stub = await room.as_admin()
    request = training_pb2.StartRunRequest(request_id=str(uuid.uuid4()), plan=plan())
    call = stub.StartRun(request, timeout=5)
    await asyncio.sleep(0.02)
    call.cancel()
    response = await stub.StartRun(request, timeout=5)
    assert response.run.state == Run.STATE_STARTING
    assert await _count(room, "select count(*) from aegis.run") == 1
    assert await _count(room, "select count(*) from aegis.privacy_entry") == 1
