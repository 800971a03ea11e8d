"""The round loop of a run: from where it stands to its end.

Our own instead of Flower's `Strategy.start`: every round has a deadline and ends in a stored model
or a reason, and what is stored is all it needs to go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from aegis.errors import ResourceExhausted
from aegis.v1 import training_pb2
from aegis_learning.parameters import Parameters
from aegis_server.training.budget import TRIES
from aegis_server.training.calls import Position
from aegis_server.training.plans import planned_steps
from aegis_server.training.selection import choose, spent_in
from aegis_server.training.stopping import stopped_early

if TYPE_CHECKING:
    from aegis_server.training.rounds import Rounds, Tried

log = logging.getLogger("aegis.coordinator")

Run = training_pb2.Run
Outcome = training_pb2.ParticipantRound
End = tuple[training_pb2.Run.State.ValueType, str]


class Keeper(Protocol):
    """What keeps a run's rounds: `calls.Server`, or memory."""

    async def assignment(self) -> Position:
        """Returns where to go on."""

    async def complete_round(
        self,
        position: Position,
        report: training_pb2.Round,
        model: Parameters,
        state: Parameters | None = None,
    ) -> None:
        """Stores a round and what the strategy remembers; `position` then stands behind it."""

    async def ask_wishes(self, position: Position) -> None:
        """Learns in the middle of a round whether the run is to stop or to pause."""

    async def finish(
        self, position: Position, state: training_pb2.Run.State.ValueType, reason: str = ""
    ) -> training_pb2.Run:
        """Ends or pauses the run, and returns it as it then is."""


async def coordinate(server: Keeper, prepare: Callable[[Position], Rounds]) -> None:
    """Drives the run from where it stands to its end, or until it is paused.

    `prepare` makes what asks the sites; it may take seconds. Raises `AegisError` when the server
    refuses or stays away.
    """
    position = await server.assignment()
    rounds = await asyncio.to_thread(prepare, position)
    try:
        state, reason = await _rounds(server, rounds, position)
    except ResourceExhausted as error:
        if error.reason != "STORAGE_FULL":
            raise
        last = position.last_round
        state, reason = Run.STATE_FAILED, f"STORAGE_FULL after round {last}: {error.message}"
    await server.finish(position, state, reason)


async def _rounds(server: Keeper, rounds: Rounds, position: Position) -> End:
    """Completes rounds until there is a reason to end, and returns that."""
    plan = position.plan
    while True:
        if position.last_round >= plan.rounds:
            return Run.STATE_COMPLETED, ""
        if early := stopped_early(plan, position.losses):
            return Run.STATE_COMPLETED, early
        if position.stop or position.pause:
            if called_off := await _called_off(server, position):
                return called_off
        elif position.last_round < 0:
            model = position.data.family(plan.model).initial(plan.seed)
            await server.complete_round(position, rounds.report(0, model, [], steps=0), model)
        else:
            ended = await _next_round(server, rounds, position)
            if ended is not None:
                return ended


async def _called_off(server: Keeper, position: Position) -> End | None:
    """Returns how the run ends because somebody wants it to; None when they changed their mind."""
    if position.pause:
        run = await server.finish(position, Run.STATE_PAUSED)
        if run.state == Run.STATE_PAUSED:
            return Run.STATE_PAUSED, ""
        position.wished(run)
    return (Run.STATE_STOPPED, "") if position.stop else None


async def _next_round(server: Keeper, rounds: Rounds, position: Position) -> End | None:
    """Completes the next round; or returns how the run ends instead, and why."""
    plan, number = position.plan, position.last_round + 1
    told: dict[str, Outcome] = {}
    tried: Tried | None = None
    for repeat in range(TRIES):
        choice = choose(
            plan,
            rounds.names,
            position.rounds,
            number,
            spent=position.spent,
            steps_max=planned_steps(plan),
            refused=[n for n, each in told.items() if each.outcome == Outcome.OUTCOME_REFUSED],
            barred=position.quarantined,
        )
        if len(choice.asked) < plan.min_participants:
            if tried is not None:
                break
            return Run.STATE_STOPPED, _nobody_left(position, choice.others, len(choice.asked))
        position.midway = True
        left = {n: planned_steps(plan) - position.spent.get(n, 0) for n in rounds.names}
        tried = await asyncio.to_thread(
            rounds.train,
            number,
            position.model,
            repeat=repeat,
            attempt=TRIES * (position.attempt - 1) + repeat + 1,
            state=position.state,
            choice=choice,
            left=left,
        )
        for each in tried.participants:
            position.spent[each.participant] = position.spent.get(each.participant, 0) + each.steps
            told[each.participant] = merged(told.get(each.participant), each)
        if tried.model is not None:
            report = _report(rounds, position, number, tried, list(told.values()))
            await server.complete_round(position, report, tried.model, tried.state)
            log.info("round %d: accuracy %.3f", number, report.accuracy)
            return None
        log.warning("round %d, try %d: %s", number, repeat + 1, tried.losses)
        # Whoever ends a run that waits for people takes from its round what they would accept.
        await server.ask_wishes(position)
        if called_off := await _called_off(server, position):
            return called_off
    assert tried is not None  # noqa: S101  # the first try returned else
    reason = (
        f"round {number} failed: {tried.accepted} updates were accepted,"
        f" {plan.min_participants} are needed; {tried.losses}"
    )
    return Run.STATE_FAILED, reason


def _report(
    rounds: Rounds, position: Position, number: int, tried: Tried, told: list[Outcome]
) -> training_pb2.Round:
    assert tried.model is not None  # noqa: S101  # only those are reported
    stored = spent_in(position.rounds)
    for each in told:
        # With what coordinators before us may have asked in this round.
        each.steps = position.spent[each.participant] - stored[each.participant]
    steps = max(position.spent.values(), default=0)
    report = rounds.report(number, tried.model, told, steps=steps)
    report.fallback = tried.fallback
    if tried.scan is not None:
        report.scan.CopyFrom(tried.scan)
    return report


def merged(before: Outcome | None, now: Outcome) -> Outcome:
    """Returns what became of a participant in two tries of a round."""
    if before is None:
        return now
    both = Outcome()
    # Who refused in the first try is not asked in the second, but has refused.
    both.CopyFrom(before if now.outcome == Outcome.OUTCOME_NOT_ASKED else now)
    if now.outcome == Outcome.OUTCOME_NOT_ASKED and both.outcome == Outcome.OUTCOME_AGGREGATED:
        both.outcome = Outcome.OUTCOME_LEFT_OUT
        both.reason = "its update is of a try that made no model"
    both.tries = before.tries + now.tries
    both.steps = before.steps + now.steps
    both.seconds = before.seconds + now.seconds
    both.bytes_sent = before.bytes_sent + now.bytes_sent
    both.bytes_received = before.bytes_received + now.bytes_received
    return both


def _nobody_left(position: Position, others: Mapping[str, str], able: int) -> str:
    why = sorted(set(others.values()))[:3]
    needed = position.plan.min_participants
    return (
        f"after round {position.last_round} only {able} participants can be asked,"
        f" {needed} are needed: {'; '.join(why)}"
    )
