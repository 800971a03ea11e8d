"""One round of a run: ask the sites, judge their answers, make the next model."""

from __future__ import annotations

from dataclasses import dataclass, field

from aegis.v1 import training_pb2
from aegis_learning import scores
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.datasets import load
from aegis_learning.models import Family
from aegis_learning.parameters import Parameters, flatten
from aegis_server.training import strategies, units
from aegis_server.training.flower import ConfigRecord
from aegis_server.training.grid import LocalGrid
from aegis_server.training.sites import Site, noise_of, root_update, sites_of
from aegis_server.training.strategy import ReviewedStrategy, ReviewGate, to_arrays

Outcome = training_pb2.ParticipantRound


@dataclass(frozen=True, slots=True)
class Tried:
    """One try of a round: the next model, if enough updates were accepted.

    `state` is what the strategy has to be given in the next round, `reason` why it could not even
    ask the sites.
    """

    model: Parameters | None
    participants: list[Outcome] = field(default_factory=list)
    state: Parameters | None = None
    reason: str = ""

    @property
    def accepted(self) -> int:
        """Number of updates the strategy could choose from."""
        chosen_from = (Outcome.OUTCOME_AGGREGATED, Outcome.OUTCOME_LEFT_OUT)
        return sum(p.outcome in chosen_from for p in self.participants)

    @property
    def losses(self) -> str:
        """What became of the others, for people."""
        lost = [p for p in self.participants if p.outcome != Outcome.OUTCOME_AGGREGATED]
        return self.reason or "; ".join(
            f"{p.participant} {Outcome.Outcome.Name(p.outcome).removeprefix('OUTCOME_').lower()}"
            + (f" ({p.reason})" if p.reason else "")
            for p in lost
        )


class Rounds:
    """Runs the rounds of one plan over its sites."""

    def __init__(
        self, plan: training_pb2.RunPlan, noise_multiplier: float, gate: ReviewGate | None
    ) -> None:
        self._plan = plan
        self._noise_multiplier = noise_multiplier
        self._gate = gate
        self._sites: list[Site] = sites_of(plan)
        self._grid = LocalGrid({site.node_id: (site.app, site.config) for site in self._sites})
        data = load(plan.dataset)
        self._model: Family = data.family(plan.model)
        self._test = data.test
        self._rooted = strategies.needs_root(plan)

    def train(
        self,
        number: int,
        model: Parameters,
        *,
        repeat: int,
        attempt: int,
        state: Parameters | None = None,
    ) -> Tried:
        """Tries round `number` from `model`, where the strategy remembers `state`.

        `attempt` names this try in the review.
        """
        if self._gate is not None:
            self._gate.attempt = attempt
        root = flatten(root_update(self._plan, model)) if self._rooted else None
        try:
            rule = strategies.rule_of(
                self._plan, state=state, root=root, noise=noise_of(self._plan, number, repeat)
            )
        except AssumptionBroken as broken:
            # The plan was checked, so it is the root update: the golden rows teach nothing here.
            return Tried(None, reason=f"the strategy cannot work: {broken}")
        strategy = ReviewedStrategy(self._sites, self._model.shapes, self._gate, rule)
        messages = strategy.configure_train(
            number, to_arrays(model), self._config(repeat), self._grid
        )
        deadline = self._plan.round_deadline.ToTimedelta().total_seconds()
        replies = self._grid.send_and_receive(messages=messages, timeout=deadline)
        arrays, _ = strategy.aggregate_train(number, replies)
        participants = list(strategy.outcomes.values())
        if arrays is None:
            return Tried(None, participants)
        tried = Tried(
            {name: array.numpy() for name, array in arrays.items()}, participants, strategy.state
        )
        return tried if tried.accepted >= self._plan.min_participants else Tried(None, participants)

    def report(
        self, number: int, model: Parameters, participants: list[Outcome], *, steps: int
    ) -> training_pb2.Round:
        """Returns how the model does on the test set, ready to be stored."""
        logits = self._model.logits(model, self._test.x)
        return training_pb2.Round(
            round=number,
            accuracy=scores.accuracy(logits, self._test.y),
            loss=scores.log_loss(logits, self._test.y),
            participants=participants,
            steps=steps,
        )

    def _config(self, repeat: int) -> ConfigRecord:
        plan = self._plan
        config: dict[str, int | float | str | bool] = {
            "model": plan.model,
            "features": self._model.features,
            "classes": self._model.classes,
            "steps": plan.local_steps,
            "learning-rate": plan.learning_rate,
            "sample-rate": plan.sample_rate,
            "clip-norm": plan.clip_norm,
            "noise-multiplier": units.site_noise(plan, self._noise_multiplier),
            "proximal": strategies.proximal_of(plan),
            "simulation": plan.simulation,
            "repeat": repeat,
            # Whoever may seed the noise may subtract it: real sites are not told.
            "seed": plan.seed if plan.simulation else 0,
        }
        record = ConfigRecord()
        record.update(config)
        return record
