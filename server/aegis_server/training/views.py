"""A run as it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aegis.serving.database import Connection
from aegis.v1 import training_pb2
from aegis_server.training import store
from aegis_server.training.budget import epsilon_of, steps_paid
from aegis_server.training.seats.store import StoredSite, sites_of
from aegis_server.training.store import StoredParticipant, StoredRound, StoredRun

Rounds = tuple[tuple[StoredRound, tuple[StoredParticipant, ...]], ...]


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as it stands; `rounds` are those that were asked for, in order."""

    run: StoredRun
    last: StoredRound | None
    rounds: Rounds = ()
    sites: tuple[StoredSite, ...] = ()

    @property
    def plan(self) -> training_pb2.RunPlan:
        """The plan, parsed."""
        return training_pb2.RunPlan.FromString(self.run.plan)

    @property
    def epsilon(self) -> float:
        """What the run has cost each participant so far, lost and failed rounds included."""
        steps = steps_paid(self.run, self.last)
        if self.last is not None and self.last.steps == steps:
            return self.last.epsilon
        return epsilon_of(self.run, steps)


async def view_of(
    connection: Connection, run: StoredRun, *, rounds_after: int | None = None
) -> RunView:
    """Returns a run with its participants, and its rounds behind a number if there is one."""
    sites = tuple(await sites_of(connection, [run.run_id]))
    last = (await store.last_rounds(connection, [run.run_id])).get(run.run_id)
    if rounds_after is None or last is None or last.round <= rounds_after:
        return RunView(run, last, sites=sites)
    rounds = await rounds_of(connection, run.run_id, rounds_after)
    return RunView(run, rounds[-1][0], rounds, sites)


async def rounds_of(connection: Connection, run_id: str, after: int = -1) -> Rounds:
    """Returns the rounds of a run behind a number, each with what became of its participants."""
    rounds = await store.rounds_after(connection, run_id, after)
    return paired(rounds, await store.participants_after(connection, run_id, after))


def paired(rounds: Sequence[StoredRound], participants: Sequence[StoredParticipant]) -> Rounds:
    """Puts participants to their rounds."""
    by_round: dict[int, list[StoredParticipant]] = {}
    for each in participants:
        by_round.setdefault(each.round, []).append(each)
    return tuple((found, tuple(by_round.get(found.round, ()))) for found in rounds)
