"""Runs while participants are in quarantine by the review room."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.integration.training.reviewed import bear_out

from aegis.v1 import training_pb2
from aegis_server.review.standing.store import decide_quarantine, insert_quarantine
from aegis_server.training import store
from aegis_server.training.calls import Position, Server
from aegis_server.training.loop import coordinate
from aegis_server.training.rounds import Rounds

Run = training_pb2.Run
Outcome = training_pb2.ParticipantRound
Plan = Callable[..., training_pb2.RunPlan]


async def _set(room: Any, name: str, state: str) -> None:
    """Somebody decides about a quarantine of this participant."""
    now = room.runs._clock()
    async with room.database.transaction() as connection:
        if state == "in_force":
            await insert_quarantine(
                connection,
                quarantine_id=f"qua-{name}",
                participant=name,
                cause="reputation",
                reason="all of it was rejected",
                update_ids=[],
                now=now,
            )
        await decide_quarantine(
            connection, f"qua-{name}", state=state, by="user:admin", reason="seen", now=now
        )


async def _run(
    room: Any, plan: training_pb2.RunPlan, decisions: Mapping[int, tuple[str, str]]
) -> training_pb2.Run:
    """Runs the plan; what is decided is decided just before a round is complete.

    Participants that have enrolled train in this process as well, under their names.
    """
    if plan.sites == training_pb2.SITES_ENROLLED:
        for number in (1, 2, 3):
            await room.enrol(f"site-{number}")
    run_id = await room.start(plan)
    async with room.database.transaction() as connection:
        attempt = await store.next_attempt(connection, run_id, room.runs._clock())

    class Disturbed(Server):
        async def complete_round(self, position: Any, report: Any, *model: Any) -> None:
            if report.round in decisions:
                await _set(room, *decisions[report.round])
            await bear_out(room, run_id, report)
            await super().complete_round(position, report, *model)

    server = Disturbed(await room.channel("coordinator"), run_id, attempt, patience_seconds=5)
    await coordinate(server, _rounds)
    # What the review is told of whom it judges.
    base = await room.progress.base_of(run_id, 1)
    assert base.enrolled == (plan.sites == training_pb2.SITES_ENROLLED)
    stub = await room.as_admin()
    request = training_pb2.GetRunRequest(run_id=run_id)
    return (await stub.GetRun(request, timeout=10)).run  # type: ignore[no-any-return]


def _rounds(position: Position) -> Rounds:
    plan = training_pb2.RunPlan()
    plan.CopyFrom(position.plan)
    plan.sites = training_pb2.SITES_EMBEDDED
    return Rounds(plan, position.noise_multiplier, None, data=position.data)


def _course(run: training_pb2.Run, name: str) -> list[tuple[str, str]]:
    """What became of a participant, round by round, and why."""
    return [
        (Outcome.Outcome.Name(each.outcome).removeprefix("OUTCOME_").lower(), each.reason)
        for round_ in run.rounds
        for each in round_.participants
        if each.participant == name
    ]


async def test_participant_in_quarantine_is_asked_in_no_later_round(
    room: Any, enrolled: Plan
) -> None:
    """From the round after the decision on; the round says why, and the others go on."""
    run = await _run(room, enrolled(rounds=3), {1: ("site-2", "in_force")})
    assert run.state == Run.STATE_COMPLETED
    left_out = ("not_asked", "in quarantine")
    assert _course(run, "site-2") == [("aggregated", ""), left_out, left_out]
    assert _course(run, "site-1") == [("aggregated", "")] * 3


async def test_participant_whose_quarantine_is_lifted_takes_part_again(
    room: Any, enrolled: Plan
) -> None:
    """It is asked in the next round, as before."""
    decisions = {1: ("site-2", "in_force"), 2: ("site-2", "lifted")}
    run = await _run(room, enrolled(rounds=3), decisions)
    assert [outcome for outcome, _ in _course(run, "site-2")] == [
        "aggregated",
        "not_asked",
        "aggregated",
    ]


async def test_quarantine_of_before_holds_from_the_first_round(room: Any, enrolled: Plan) -> None:
    """A coordinator is told with its assignment, so one that takes over is, too."""
    await _set(room, "site-3", "in_force")
    run = await _run(room, enrolled(rounds=1), {})
    assert _course(run, "site-3") == [("not_asked", "in quarantine")]


async def test_run_that_is_left_with_too_few_stops_and_says_why(room: Any, enrolled: Plan) -> None:
    """Nobody who was locked out is called back to make up the number."""
    decisions = {0: ("site-1", "in_force"), 1: ("site-2", "in_force")}
    run = await _run(room, enrolled(rounds=3), decisions)
    assert (run.state, run.reason) == (
        Run.STATE_STOPPED,
        "after round 1 only 1 participants can be asked, 2 are needed: in quarantine",
    )


async def test_simulation_has_sites_of_the_same_name_and_nobody_in_quarantine(
    room: Any, plan: Plan
) -> None:
    """Its third site is not the participant that enrolled as site-3, nor is its second."""
    await _set(room, "site-3", "in_force")
    run = await _run(room, plan(rounds=2), {1: ("site-2", "in_force")})
    for name in ("site-2", "site-3"):
        assert _course(run, name) == [("aggregated", "")] * 2
