"""A whole run in this process: the coordinator's round loop, strategy, sites and examiners.

The model a plan leads to depends on nothing but the plan: not on how many sites train at the same
moment, and not on which of them is done first.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aegis.v1 import training_pb2
from aegis_learning import parameters
from aegis_learning.datasets import load
from aegis_learning.parameters import Parameters
from aegis_server.training import units
from aegis_server.training.calls import Position
from aegis_server.training.loop import coordinate
from aegis_server.training.plans import noise_of
from aegis_server.training.rounds import Rounds
from aegis_server.training.simulation.gate import DirectGate

Outcome = training_pb2.ParticipantRound


@dataclass(frozen=True, slots=True)
class Standing:
    """One round, or the initial model as round 0."""

    number: int
    accuracy: float
    loss: float
    epsilon: float
    seconds: float
    outcomes: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the form of reports."""
        return {
            "round": self.number,
            "accuracy": self.accuracy,
            "loss": self.loss,
            "epsilon": self.epsilon,
            "seconds": round(self.seconds, 3),
            **self.outcomes,
        }


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended; `failure` is empty when all its rounds were completed."""

    model: Parameters
    standings: tuple[Standing, ...]
    seconds: float
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the form of reports."""
        last = self.standings[-1]
        return {
            "final": {
                "accuracy": last.accuracy,
                "loss": last.loss,
                "epsilon": last.epsilon,
                "round": last.number,
                "model_digest": parameters.digest(parameters.encode(self.model)).hex(),
            },
            "failure": self.failure,
            "seconds": round(self.seconds, 3),
            "peak_rss_mib": round(peak_rss_mib(), 1),
            "rounds": [each.to_json() for each in self.standings],
        }


class _Memory:
    """What a coordinator calls instead of a server: it keeps the newest model and no other."""

    def __init__(
        self, position: Position, told: Callable[[Standing], None], gate: DirectGate | None
    ) -> None:
        self.position = position
        self.standings: list[Standing] = []
        self.failure = ""
        self._told = told
        self._gate = gate
        self._last = time.monotonic()

    async def assignment(self) -> Position:
        """Returns the beginning."""
        return self.position

    async def complete_round(
        self,
        position: Position,
        report: training_pb2.Round,
        model: Parameters,
        state: Parameters | None = None,
    ) -> None:
        """Moves the position on, and tells of the round."""
        now = time.monotonic()
        standing = _standing(position, report, now - self._last)
        self._last = now
        position.last_round, position.model, position.state = report.round, model, state
        position.rounds.append(report)
        if self._gate is not None:
            self._gate.base = model
        self.standings.append(standing)
        self._told(standing)

    async def ask_wishes(self, position: Position) -> None:
        """Nobody can wish for anything."""

    async def finish(
        self, position: Position, state: training_pb2.Run.State.ValueType, reason: str = ""
    ) -> training_pb2.Run:
        """Keeps why the run did not complete its rounds."""
        if state != training_pb2.Run.STATE_COMPLETED:
            self.failure = reason
        return training_pb2.Run(state=state, reason=reason)


def simulate(
    plan: training_pb2.RunPlan,
    *,
    workers: int,
    told: Callable[[Standing], None],
    gate_of: Callable[[training_pb2.RunPlan], DirectGate] = DirectGate,
) -> Finished:
    """Runs a plan to its end; `told` hears of every round, the initial model's first.

    `gate_of` makes what judges updates of a plan with review. Raises what `noise_of` raises for a
    plan that cannot be kept.
    """
    noise = noise_of(plan)
    gate = gate_of(plan) if plan.review else None
    position = Position(
        run_id="simulation",
        plan=plan,
        noise_multiplier=noise,
        attempt=1,
        last_round=-1,
        data=load(plan.dataset),
        model={},
        stop=False,
    )
    memory = _Memory(position, told, gate)
    began = time.monotonic()

    def prepare(position: Position) -> Rounds:
        return Rounds(plan, noise, gate, data=position.data, workers=workers)

    asyncio.run(coordinate(memory, prepare))
    seconds = time.monotonic() - began
    return Finished(position.model, tuple(memory.standings), seconds, memory.failure)


def _standing(position: Position, report: training_pb2.Round, seconds: float) -> Standing:
    outcomes: dict[str, int] = {}
    for each in report.participants:
        name = Outcome.Outcome.Name(each.outcome).removeprefix("OUTCOME_").lower()
        outcomes[name] = outcomes.get(name, 0) + 1
    return Standing(
        number=report.round,
        accuracy=report.accuracy,
        loss=report.loss,
        epsilon=units.epsilon_of(position.plan, position.noise_multiplier, report.steps),
        seconds=seconds,
        outcomes=outcomes,
    )


def peak_rss_mib() -> float:
    """Returns the most memory this process has held, in MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1024 * 1024 if sys.platform == "darwin" else 1024)
