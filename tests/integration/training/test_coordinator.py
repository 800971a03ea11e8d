"""A whole run: coordinator process, mTLS, rounds, and what happens when something dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import torch

from aegis.plans import Strategy
from aegis.v1 import training_pb2
from aegis_learning.models import family
from aegis_learning.parameters import digest, encode
from aegis_server.training import store
from aegis_server.training.plans import noise_of
from aegis_server.training.rounds import Rounds

Run = training_pb2.Run
Plan = Callable[..., training_pb2.RunPlan]


async def _end_of(room: Any, run_id: str) -> training_pb2.Run:
    async with asyncio.timeout(90):
        async for _ in room.runs.watch(run_id):
            pass
    stub = await room.as_admin()
    response = await stub.GetRun(training_pb2.GetRunRequest(run_id=run_id), timeout=10)
    run: training_pb2.Run = response.run
    return run


def _models_of(plan: training_pb2.RunPlan) -> list[bytes]:
    """The digests of a run nobody disturbs, trained in this process."""
    torch.set_num_threads(1)
    rounds, model = Rounds(plan, noise_of(plan), None), family(plan.model, 30, 2).initial(plan.seed)
    state = None
    digests = [digest(encode(model))]
    for number in range(1, plan.rounds + 1):
        tried = rounds.train(number, model, repeat=0, attempt=1, state=state)
        assert tried.model is not None
        model, state = tried.model, tried.state
        digests.append(digest(encode(model)))
    return digests


def _coordinators_of(run_id: str) -> list[int]:
    found = subprocess.run(
        ["pgrep", "-f", f"training.coordinator --run {run_id}"], capture_output=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


async def _all_gone(run_id: str) -> None:
    for _ in range(100):
        if not _coordinators_of(run_id):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("a coordinator outlived its run")


async def test_run_completes_with_a_model_a_round_and_an_audit_trail(room: Any, plan: Plan) -> None:
    """Every round has a model, every update was judged, and epsilon stays within the target."""
    run_id = await room.start(plan(review=True, min_participants=1))
    await room.supervise()
    run = await _end_of(room, run_id)
    assert (run.state, run.reason) == (Run.STATE_COMPLETED, "")
    assert [r.round for r in run.rounds] == [0, 1, 2, 3]
    assert [p.participant for p in run.rounds[3].participants] == ["site-1", "site-2", "site-3"]
    assert 7.9 < run.epsilon <= 8.0
    assert run.rounds[1].epsilon < run.rounds[3].epsilon
    assert sum(p.examples for p in run.rounds[1].participants) == 391
    async with room.database.transaction() as connection:
        cursor = await connection.execute(
            "select count(*) from aegis.audit_record where subject_id = %s", (run_id,)
        )
        assert await cursor.fetchone() == (7,)  # start, run, four rounds, finish
        ((spent,),) = await (
            await connection.execute("select steps from aegis.privacy_entry")
        ).fetchall()
    assert spent == 6


@pytest.mark.parametrize("strategy", ["fed-avg", "fed-adam"])
async def test_killed_coordinator_is_followed_by_one_that_ends_with_the_same_model(
    room: Any, plan: Plan, strategy: str
) -> None:
    """A simulation is bit-identical for its seed, whether or not a coordinator was killed.

    FedAdam takes other steps when its moments are lost, so its successor has to have them.
    """
    chosen = Strategy(strategy)
    disturbed = plan(rounds=6, strategy=chosen.value, settings=chosen.settings)
    undisturbed = await asyncio.to_thread(_models_of, disturbed)
    run_id = await room.start(disturbed)
    await room.supervise()
    async for view in room.runs.watch(run_id):
        if view.last is not None and view.last.round >= 2:
            break
    (pid,) = _coordinators_of(run_id)
    os.kill(pid, signal.SIGKILL)
    resumed = await _end_of(room, run_id)
    assert resumed.state == Run.STATE_COMPLETED
    assert undisturbed == [r.model_sha256 for r in resumed.rounds]
    async with room.database.transaction() as connection:
        stored = await store.run_of(connection, run_id)
    assert stored is not None
    assert stored.attempt == 2


async def test_stopped_run_keeps_its_model_and_says_why(room: Any, plan: Plan) -> None:
    """StopRun lets the round end; the run is STOPPED with the reason it was given."""
    run_id = await room.start(plan(rounds=500))
    await room.supervise()
    async for view in room.runs.watch(run_id):
        if view.last is not None and view.last.round >= 1:
            break
    stub = await room.as_admin()
    await stub.StopRun(training_pb2.StopRunRequest(run_id=run_id, reason="seen enough"), timeout=10)
    run = await _end_of(room, run_id)
    assert (run.state, run.reason) == (Run.STATE_STOPPED, "seen enough")
    assert run.rounds_completed >= 1
    await _all_gone(run_id)


async def test_supervisor_that_ends_takes_its_coordinators_along_and_the_next_resumes(
    room: Any, plan: Plan
) -> None:
    """A server's restart leaves no process behind and loses no run."""
    run_id = await room.start(plan(rounds=6))
    task = await room.supervise()
    async for view in room.runs.watch(run_id):
        if view.last is not None and view.last.round >= 1:
            break
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not _coordinators_of(run_id)
    assert (await room.runs.get(run_id)).run.state == Run.STATE_RUNNING
    await room.supervise()
    assert (await _end_of(room, run_id)).state == Run.STATE_COMPLETED


async def test_coordinator_that_keeps_dying_fails_its_run_with_its_last_words(
    room: Any, plan: Plan
) -> None:
    """Restarts are bounded; the reason quotes the log."""
    run_id = await room.start(plan())
    (room.pki / "coordinator.crt").unlink()
    await room.supervise()
    run = await _end_of(room, run_id)
    assert run.state == Run.STATE_FAILED
    assert "died 4 times without progress" in run.reason
    assert "FileNotFoundError" in run.reason
    async with room.database.transaction() as connection:
        cursor = await connection.execute("select steps, settled from aegis.privacy_entry")
        assert await cursor.fetchone() == (6, True)  # what was reserved counts as spent


async def test_round_nobody_answers_in_time_is_repeated_once_and_fails_the_run(
    room: Any, plan: Plan
) -> None:
    """The deadline fires, and the reason names who was missing."""
    late = plan()
    late.round_deadline.FromMilliseconds(1)
    run_id = await room.start(late)
    await room.supervise()
    run = await _end_of(room, run_id)
    assert run.state == Run.STATE_FAILED
    assert "round 1 failed: 0 updates were accepted, 2 are needed" in run.reason
    assert "site-3 missing" in run.reason
    log = (room.folder / "logs" / f"{run_id}.log").read_text()
    assert log.count("site-3 missing") - log.count("STATE_FAILED") == 2
