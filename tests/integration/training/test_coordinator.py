"""A whole run: coordinator process, mTLS, rounds, and what happens when something dies."""

from __future__ import annotations

import asyncio
import errno
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
from aegis_server.training.calls import Server
from aegis_server.training.loop import coordinate
from aegis_server.training.plans import noise_of
from aegis_server.training.rounds import Rounds
from aegis_server.training.selection import choose

Run = training_pb2.Run
Outcome = training_pb2.ParticipantRound
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
    state, stored = None, []
    digests = [digest(encode(model))]
    for number in range(1, plan.rounds + 1):
        choice = choose(plan, rounds.names, stored, number, spent={}, steps_max=10**6)
        tried = rounds.train(number, model, repeat=0, attempt=1, state=state, choice=choice)
        assert tried.model is not None
        model, state = tried.model, tried.state
        stored.append(rounds.report(number, model, tried.participants, steps=0))
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


async def test_killed_coordinator_is_followed_by_one_that_ends_with_the_same_model(
    room: Any, plan: Plan
) -> None:
    """A simulation is bit-identical for its seed, whether or not a coordinator was killed.

    FedAdam takes other steps when its moments are lost, so its successor has to have them.
    """
    chosen = Strategy("fed-adam")
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


async def test_run_that_was_paused_and_resumed_ends_with_the_same_model(
    room: Any, plan: Plan
) -> None:
    """The coordinator is gone while it is paused, and another goes on behind the stored round."""
    disturbed = plan(rounds=5, per_round=2)
    undisturbed = await asyncio.to_thread(_models_of, disturbed)
    run_id = await room.start(disturbed)
    await room.supervise()
    stub = await room.as_admin()
    async for view in room.runs.watch(run_id):
        if view.last is not None and view.last.round >= 1:
            await stub.PauseRun(training_pb2.PauseRunRequest(run_id=run_id), timeout=10)
            break
    async with asyncio.timeout(60):
        async for view in room.runs.watch(run_id):
            if view.run.state == Run.STATE_PAUSED:
                break
    await _all_gone(run_id)
    stored = view.last.round
    assert 1 <= stored < 5
    await asyncio.sleep(1)
    assert (await room.runs.get(run_id)).last.round == stored
    resumed = await stub.ResumeRun(training_pb2.ResumeRunRequest(run_id=run_id), timeout=10)
    assert resumed.run.state == Run.STATE_STARTING
    run = await _end_of(room, run_id)
    assert (run.state, run.reason) == (Run.STATE_COMPLETED, "")
    assert undisturbed == [r.model_sha256 for r in run.rounds]


async def test_coordinator_killed_in_the_middle_of_a_round_costs_that_round_only(
    room: Any, plan: Plan
) -> None:
    """While sites train: its successor draws the same of them and comes to the same model."""
    disturbed = plan(rounds=4, per_round=2, local_steps=60, quarantine_after=1, retries=1)
    undisturbed = await asyncio.to_thread(_models_of, disturbed)
    run_id = await room.start(disturbed)
    await room.supervise()
    async for view in room.runs.watch(run_id):
        if view.last is not None and view.last.round >= 1:
            break
    await asyncio.sleep(0.1)  # a round of sixty steps takes longer
    (pid,) = _coordinators_of(run_id)
    os.kill(pid, signal.SIGKILL)
    killed_after = (await room.runs.get(run_id)).last.round
    run = await _end_of(room, run_id)
    assert killed_after < 4
    assert run.state == Run.STATE_COMPLETED
    assert undisturbed == [r.model_sha256 for r in run.rounds]
    for round_ in run.rounds[1:]:
        outcomes = sorted(each.outcome for each in round_.participants)
        assert outcomes == [Outcome.OUTCOME_AGGREGATED] * 2 + [Outcome.OUTCOME_NOT_ASKED]


def _full(handle: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_disk_that_is_full_for_a_moment_costs_a_moment(
    room: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator tries again with what it has; nobody trains twice."""
    put, tries = room.blobs.put, []

    async def sometimes(data: bytes) -> bytes:
        tries.append(len(data))
        with monkeypatch.context() as during:
            if len(tries) in (2, 3):
                during.setattr(os, "fsync", _full)
            return bytes(await put(data))

    monkeypatch.setattr(room.blobs, "put", sometimes)
    run_id = await room.start(plan(rounds=2))
    await room.supervise()
    run = await _end_of(room, run_id)
    assert (run.state, len(run.rounds), len(tries)) == (Run.STATE_COMPLETED, 3, 5)
    assert [each.tries for each in run.rounds[1].participants] == [1, 1, 1]
    log = (room.folder / "logs" / f"{run_id}.log").read_text()
    assert "STORAGE_FULL" in log


async def test_disk_that_stays_full_is_told_to_the_coordinator_in_the_end(
    room: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason that the run then fails with; what was stored stays."""

    run_id = await room.start(plan())
    async with room.database.transaction() as connection:
        attempt = await store.next_attempt(connection, run_id, room.runs._clock())
    server = Server(await room.channel("coordinator"), run_id, attempt, patience_seconds=1.5)
    monkeypatch.setattr(os, "fsync", _full)
    await coordinate(server, lambda p: Rounds(p.plan, p.noise_multiplier, None, data=p.data))
    run = (await room.runs.get(run_id)).run
    assert run.state == Run.STATE_FAILED
    assert run.reason.startswith("STORAGE_FULL after round -1: there is no room")
