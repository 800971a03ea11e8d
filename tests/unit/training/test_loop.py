"""The round loop with sites that fail, in one process: retries, substitutes, failed rounds, ends.

The server is one that keeps what it is told in memory; everything else is the coordinator's own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from aegis.errors import ResourceExhausted
from aegis.plans import default_plan
from aegis.v1 import training_pb2
from aegis_learning.datasets import load
from aegis_learning.parameters import Parameters, digest, encode
from aegis_participant.app import train_round
from aegis_server.training.calls import Position
from aegis_server.training.grid import LocalGrid
from aegis_server.training.loop import coordinate, merged
from aegis_server.training.plans import noise_of
from aegis_server.training.rounds import Rounds
from aegis_server.training.selection import spent_in
from aegis_server.training.sites import sites_of

Run = training_pb2.Run
Outcome = training_pb2.ParticipantRound
DATA = load("breast-cancer")
# Whether a site does as it should, by name, round and the number it is asked under.
Behaviour = Callable[[str, int, int], None]


def _plan(**fields: Any) -> training_pb2.RunPlan:
    plan = default_plan(seed=3, review=False)
    plan.rounds, plan.local_steps, plan.sample_rate = 4, 1, 0.1
    for name, value in fields.items():
        if hasattr(value, "CopyFrom"):
            getattr(plan, name).CopyFrom(value)
        else:
            setattr(plan, name, value)
    return plan


class Kept:
    """A server in memory; `die_after` rounds it loses the coordinator."""

    def __init__(self, plan: training_pb2.RunPlan, *, die_after: int | None = None) -> None:
        self.plan = plan
        self.die_after = die_after
        self.rounds: list[training_pb2.Round] = []
        self.models: list[Parameters] = []
        self.ended: tuple[int, str] | None = None
        self.wish: int = Run.STATE_RUNNING
        self.full = False
        self.ended_midway = False
        self.attempt = 0

    async def assignment(self) -> Position:
        self.attempt += 1
        position = Position(
            run_id="run-1",
            plan=self.plan,
            noise_multiplier=noise_of(self.plan),
            attempt=self.attempt,
            last_round=len(self.rounds) - 1,
            data=DATA,
            model=self.models[-1] if self.models else {},
            stop=False,
            rounds=[training_pb2.Round.FromString(r.SerializeToString()) for r in self.rounds],
            spent=dict(spent_in(self.rounds)),
        )
        position.wished(Run(state=self.wish))  # type: ignore[arg-type]
        return position

    async def complete_round(
        self, position: Position, report: training_pb2.Round, model: Parameters, state: Any = None
    ) -> None:
        if self.full and report.round:
            raise ResourceExhausted("STORAGE_FULL", "there is no room")
        self.rounds.append(training_pb2.Round.FromString(report.SerializeToString()))
        self.models.append(model)
        if self.die_after is not None and report.round >= self.die_after:
            raise ConnectionError("killed")
        position.last_round, position.model, position.state = report.round, model, state
        position.midway = False
        position.rounds.append(report)
        position.wished(Run(state=self.wish))  # type: ignore[arg-type]

    async def ask_wishes(self, position: Position) -> None:
        position.wished(Run(state=self.wish))  # type: ignore[arg-type]

    async def finish(self, position: Position, state: int, reason: str = "") -> Run:
        if state == Run.STATE_PAUSED and self.wish != Run.STATE_PAUSING:
            return Run(state=self.wish)  # type: ignore[arg-type]
        self.ended, self.ended_midway = (state, reason), position.midway
        return Run(state=state, reason=reason)  # type: ignore[arg-type]

    @property
    def digests(self) -> list[bytes]:
        return [digest(encode(model)) for model in self.models]

    def outcomes(self, number: int) -> dict[str, str]:
        return {
            p.participant: Outcome.Outcome.Name(p.outcome).removeprefix("OUTCOME_").lower()
            for p in self.rounds[number].participants
        }


def _rounds(position: Position, behave: Behaviour) -> Rounds:
    sites = sites_of(position.plan, DATA)

    def app(name: str) -> ClientApp:
        made = ClientApp()

        @made.train()
        def answer(message: Message, context: Context) -> Message:
            config: Any = message.content["config"]
            behave(name, int(config["server-round"]), int(config["repeat"]))
            return train_round(message, context)

        return made

    grid = LocalGrid({site.node_id: (app(site.name), site.config) for site in sites})
    return Rounds(position.plan, position.noise_multiplier, None, sites=sites, grid=grid)


def _drive(server: Kept, behave: Behaviour = lambda name, number, repeat: None) -> Kept:
    asyncio.run(coordinate(server, lambda position: _rounds(position, behave)))  # type: ignore[arg-type]
    return server


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here gets better by waiting."""
    monkeypatch.setattr("aegis_server.training.asking._PAUSE_SECONDS", 0.001)


def _flaky(name: str, number: int, repeat: int) -> None:
    """Fails by name, round and try, always in the same way."""
    if name == "site-1" and number in (1, 2):
        raise RuntimeError
    if name == "site-2" and repeat == 0:
        raise RuntimeError
    if name == "site-3" and number == 3:
        raise PermissionError


def test_run_completes_and_says_what_became_of_everybody() -> None:
    """Every round tells tries, steps, time and bytes of each."""
    server = _drive(Kept(_plan()))
    assert server.ended == (Run.STATE_COMPLETED, "")
    assert [r.steps for r in server.rounds] == [0, 1, 2, 3, 4]
    for round_ in server.rounds[1:]:
        assert len(round_.participants) == 5
        for each in round_.participants:
            assert (each.outcome, each.tries, each.steps) == (Outcome.OUTCOME_AGGREGATED, 1, 1)
            assert each.bytes_sent > 1000 < each.bytes_received
            assert each.seconds > 0
            assert each.examples > 0


def test_participant_that_fails_is_asked_again_in_the_same_round() -> None:
    """Under another number, with other noise; each try costs its steps while there are any."""
    server = _drive(Kept(_plan(retries=1, min_participants=2)), _flaky)
    assert server.ended == (Run.STATE_COMPLETED, "")
    first = {p.participant: p for p in server.rounds[1].participants}
    assert (first["site-2"].outcome, first["site-2"].tries) == (Outcome.OUTCOME_AGGREGATED, 2)
    assert (first["site-1"].outcome, first["site-1"].tries) == (Outcome.OUTCOME_FAILED, 2)
    assert first["site-1"].reason == "its training failed: RuntimeError"
    assert (first["site-4"].tries, first["site-2"].steps) == (1, 2)
    # Four steps are all that is planned: both have spent them in two rounds.
    assert server.outcomes(3)["site-1"] == "not_asked"
    assert "used up" in server.rounds[3].participants[1].reason
    third = server.rounds[3].participants[2]
    assert (third.outcome, third.tries, third.steps) == (Outcome.OUTCOME_REFUSED, 1, 0)
    assert spent_in(server.rounds)["site-2"] == 4


def test_another_is_asked_instead_of_one_that_failed() -> None:
    """Where not all are drawn, the round has its number nevertheless."""
    drawn = _drive(Kept(_plan(per_round=3, rounds=1)))
    (first, *_) = [name for name, each in drawn.outcomes(1).items() if each == "aggregated"]

    def behave(name: str, number: int, repeat: int) -> None:
        if name == first:
            raise RuntimeError

    server = _drive(Kept(_plan(per_round=3, rounds=1)), behave)
    assert Counter(server.outcomes(1).values()) == {"aggregated": 3, "failed": 1, "not_asked": 1}
    assert server.outcomes(1)[first] == "failed"
    assert server.ended == (Run.STATE_COMPLETED, "")


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_coordinator_that_follows_after_any_round_asks_and_learns_the_same(
    killed_after: int,
) -> None:
    """With draws, retries, refusals and quarantine: everything follows from the stored rounds."""
    plan = _plan(per_round=4, retries=1, quarantine_after=1, quarantine_rounds=1)
    plan.min_participants = 2
    undisturbed = _drive(Kept(plan), _flaky)
    assert undisturbed.ended == (Run.STATE_COMPLETED, "")
    server = Kept(plan, die_after=killed_after)
    with pytest.raises(ConnectionError):
        _drive(server, _flaky)
    server.die_after = None
    _drive(server, _flaky)
    assert undisturbed.digests == server.digests
    assert [undisturbed.outcomes(n) for n in range(5)] == [server.outcomes(n) for n in range(5)]
    assert [r.steps for r in undisturbed.rounds] == [r.steps for r in server.rounds]
    assert "not_asked" in {each for n in range(5) for each in server.outcomes(n).values()}


def test_round_with_too_few_is_tried_twice_and_then_fails_with_a_sentence() -> None:
    """Who has refused is not asked twice; the sentence says who was lost, and why."""
    asked: list[tuple[str, int]] = []

    def behave(name: str, number: int, repeat: int) -> None:
        asked.append((name, repeat))
        if name in ("site-1", "site-2"):
            raise RuntimeError
        if name == "site-3":
            raise PermissionError

    server = _drive(Kept(_plan(min_participants=4)), behave)
    assert server.ended is not None
    state, reason = server.ended
    assert state == Run.STATE_FAILED
    assert reason.startswith("round 1 failed: 2 updates were accepted, 4 are needed; ")
    assert "site-1 failed (its training failed: RuntimeError)" in reason
    assert Counter(name for name, _ in asked)["site-3"] == 1
    assert {repeat for name, repeat in asked if name == "site-1"} == {0, 1}


def test_run_stops_when_too_few_may_still_be_asked() -> None:
    """Their epsilon is used up by failing: stopped with what there is, and the reason."""

    def behave(name: str, number: int, repeat: int) -> None:
        if name in ("site-1", "site-2", "site-3"):
            raise RuntimeError

    server = _drive(Kept(_plan(retries=3, min_participants=2)), behave)
    assert server.ended == (Run.STATE_COMPLETED, "")
    server = _drive(Kept(_plan(retries=3, min_participants=2)), _late_failures)
    state, reason = server.ended or (0, "")
    assert state == Run.STATE_STOPPED
    assert "after round 2 only 0 participants can be asked, 2 are needed" in reason
    assert "used up its epsilon" in reason


def _late_failures(name: str, number: int, repeat: int) -> None:
    if repeat < 1:
        raise RuntimeError


def test_straggler_is_missing_and_the_round_goes_on_after_the_grace() -> None:
    """One that hangs costs the grace, not the deadline."""
    release = threading.Event()

    def behave(name: str, number: int, repeat: int) -> None:
        if name == "site-5":
            release.wait(30)

    plan = _plan(rounds=1)
    plan.grace.FromMilliseconds(10)
    server = _drive(Kept(plan), behave)
    release.set()
    assert server.ended == (Run.STATE_COMPLETED, "")
    assert server.outcomes(1)["site-5"] == "missing"
    assert server.rounds[1].participants[4].reason == "no answer before the deadline"
    assert server.rounds[1].participants[4].seconds < 20


def test_run_that_no_longer_gets_better_is_complete() -> None:
    """With the reason, and no round more than it took to see that."""
    stop = training_pb2.EarlyStop(patience=2, min_gain=10)
    server = _drive(Kept(_plan(early_stop=stop)))
    assert len(server.rounds) == 3
    state, reason = server.ended or (0, "")
    assert state == Run.STATE_COMPLETED
    assert reason.startswith("stopped early: no gain on round 0")


def test_paused_run_goes_on_to_the_same_model() -> None:
    """Behind the stored round, with the coordinator gone in between."""
    undisturbed = _drive(Kept(_plan()))
    server = Kept(_plan())
    server.wish = Run.STATE_PAUSING
    _drive(server)
    assert server.ended == (Run.STATE_PAUSED, "")
    assert not server.rounds
    server.wish = Run.STATE_RUNNING
    _drive(server)
    assert server.ended == (Run.STATE_COMPLETED, "")
    assert undisturbed.digests == server.digests


def test_pause_that_was_taken_back_leaves_the_coordinator_at_work() -> None:
    """It had been told already, and asks before it ends."""
    server = Kept(_plan())
    original = server.finish

    async def finish(position: Position, state: int, reason: str = "") -> Run:
        server.wish = Run.STATE_RUNNING
        return await original(position, state, reason)

    server.wish, server.finish = Run.STATE_PAUSING, finish  # type: ignore[method-assign]
    _drive(server)
    assert server.ended == (Run.STATE_COMPLETED, "")
    assert server.attempt == 1


@pytest.mark.parametrize("wish", [Run.STATE_STOPPING, Run.STATE_PAUSING])
def test_run_that_is_to_end_is_not_failed_by_its_round(wish: int) -> None:
    """Not enough answered, and somebody wanted it to end meanwhile: nobody is asked once more."""
    server = Kept(_plan(retries=0))
    asked = []

    def fail(name: str, number: int, repeat: int) -> None:
        asked.append(number)
        server.wish = wish
        raise RuntimeError("no")

    _drive(server, fail)
    ends = {Run.STATE_STOPPING: Run.STATE_STOPPED, Run.STATE_PAUSING: Run.STATE_PAUSED}
    assert server.ended == (ends[wish], "")
    assert server.ended_midway
    assert len(asked) == server.plan.participants


def test_pause_that_was_taken_back_in_a_round_leaves_the_second_try() -> None:
    """The coordinator goes on with the same round."""
    server = Kept(_plan(retries=0))
    original = server.finish

    async def finish(position: Position, state: int, reason: str = "") -> Run:
        server.wish = Run.STATE_RUNNING
        return await original(position, state, reason)

    server.finish = finish  # type: ignore[method-assign]

    def fail(name: str, number: int, repeat: int) -> None:
        if number == 1 and repeat == 0:
            server.wish = Run.STATE_PAUSING
            raise RuntimeError("no")

    _drive(server, fail)
    assert set(server.outcomes(1).values()) == {"aggregated"}
    assert (server.attempt, server.ended_midway) == (1, False)


def test_full_disk_fails_the_run_and_loses_no_round() -> None:
    """The server was asked for a while; then the reason says what to do something about."""
    server = Kept(_plan())
    server.full = True
    _drive(server)
    assert server.ended == (Run.STATE_FAILED, "STORAGE_FULL after round 0: there is no room")
    assert len(server.rounds) == 1


def test_two_tries_of_a_round_add_up() -> None:
    """What was sent in the first is not forgotten for the second."""
    before = Outcome(participant="a", outcome=Outcome.OUTCOME_REFUSED, tries=1, steps=0, seconds=1)
    now = Outcome(participant="a", outcome=Outcome.OUTCOME_NOT_ASKED, reason="has refused")
    both = merged(before, now)
    assert (both.outcome, both.tries, both.seconds) == (Outcome.OUTCOME_REFUSED, 1, 1.0)
    failed = Outcome(participant="a", outcome=Outcome.OUTCOME_FAILED, tries=2, steps=4)
    both = merged(failed, Outcome(outcome=Outcome.OUTCOME_AGGREGATED, tries=1, steps=2))
    assert (both.outcome, both.tries, both.steps) == (Outcome.OUTCOME_AGGREGATED, 3, 6)
    # It was accepted in a try that made no model, and is not asked in the one that does.
    both = merged(both, Outcome(participant="a", outcome=Outcome.OUTCOME_NOT_ASKED))
    assert (both.outcome, both.steps) == (Outcome.OUTCOME_LEFT_OUT, 6)
