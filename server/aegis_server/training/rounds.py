"""One round of a run: ask the sites, judge their answers, make the next model.

What trains in this process is imported only where something does: PyTorch takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aegis.v1 import training_pb2
from aegis_learning import scores
from aegis_learning.aggregation.refusals import AssumptionBroken
from aegis_learning.datasets import Dataset, load
from aegis_learning.models import Family
from aegis_learning.parameters import Array, Parameters, flatten
from aegis_server.training import strategies, units
from aegis_server.training.asking import Asking, Gathering, Question, Tally
from aegis_server.training.flower import ConfigRecord, Message
from aegis_server.training.grid import LocalGrid
from aegis_server.training.noise import centre_of, noise_of
from aegis_server.training.publisher import Publisher
from aegis_server.training.selection import TRAINED, Choice
from aegis_server.training.strategy import Gate, ReviewedStrategy, Site, to_arrays

Outcome = training_pb2.ParticipantRound


@dataclass(frozen=True, slots=True)
class Tried:
    """One try of a round: the next model, if enough updates were accepted.

    `state` is what the strategy has to be given in the next round, `reason` why it could not even
    ask the sites, `fallback` why the model is a median only, `scan` what was found in it.
    """

    model: Parameters | None
    participants: list[Outcome] = field(default_factory=list)
    state: Parameters | None = None
    reason: str = ""
    fallback: str = ""
    scan: training_pb2.TriggerScan | None = None

    @property
    def accepted(self) -> int:
        """Number of updates the strategy could choose from."""
        chosen_from = (Outcome.OUTCOME_AGGREGATED, Outcome.OUTCOME_LEFT_OUT)
        return sum(p.outcome in chosen_from for p in self.participants)

    @property
    def losses(self) -> str:
        """What became of the others that were asked, for people."""
        told = (Outcome.OUTCOME_AGGREGATED, Outcome.OUTCOME_NOT_ASKED)
        lost = [p for p in self.participants if p.outcome not in told]
        return self.reason or "; ".join(
            f"{p.participant} {Outcome.Outcome.Name(p.outcome).removeprefix('OUTCOME_').lower()}"
            + (f" ({p.reason})" if p.reason else "")
            for p in lost
        )


class Rounds:
    """Runs the rounds of one plan over its sites.

    `data` is what the plan is about, what ships under its name if it is not given; `sites` take
    part over `grid`, the plan's embedded ones in this process if there is none.
    """

    def __init__(
        self,
        plan: training_pb2.RunPlan,
        noise_multiplier: float,
        gate: Gate | None,
        *,
        data: Dataset | None = None,
        sites: Sequence[Site] = (),
        grid: Gathering | None = None,
        workers: int = 2,
    ) -> None:
        self._plan = plan
        self._noise_multiplier = noise_multiplier
        self._gate = gate
        self._data = data or load(plan.dataset)
        if grid is None:
            from aegis_server.training.sites import sites_of

            embedded = sites_of(plan, self._data)
            sites = embedded
            nodes = {site.node_id: (site.app, site.config) for site in embedded}
            grid = LocalGrid(nodes, workers=workers)
        self._sites, self._grid = tuple(sites), grid
        self._model: Family = self._data.family(plan.model)
        self._rooted = strategies.needs_root(plan)
        self._publisher = None
        if gate is not None:
            examples = {site.name: site.examples for site in self._sites}
            self._publisher = Publisher(plan, noise_multiplier, self._data, examples)

    @property
    def names(self) -> list[str]:
        """Who takes part."""
        return [site.name for site in self._sites]

    def train(
        self,
        number: int,
        model: Parameters,
        *,
        repeat: int,
        attempt: int,
        state: Parameters | None = None,
        choice: Choice | None = None,
        left: Mapping[str, int] | None = None,
    ) -> Tried:
        """Tries round `number` from `model`, where the strategy remembers `state`.

        `attempt` names this try in the review, `repeat` says how often the round was tried before;
        `choice` is who is asked, everybody if it is not given, and `left` the private steps each
        may still be asked for.
        """
        if self._gate is not None:
            self._gate.attempt = attempt
        if self._publisher is not None:
            self._publisher.begin(number)
        root = self._root(model) if self._rooted else None
        try:
            rule = strategies.rule_of(
                self._plan, state=state, root=root, noise=noise_of(self._plan, number, repeat)
            )
        except AssumptionBroken as broken:
            # The plan was checked, so it is the root update: the golden rows teach nothing here.
            return Tried(None, reason=f"the strategy cannot work: {broken}")
        choice = choice or Choice(tuple(self.names))
        strategy = ReviewedStrategy(
            self._sites, self._model.shapes, self._gate, rule, self._publisher
        )
        asking = Asking(self._plan, self._grid, strategy, self._sites)
        question = Question(
            round=number,
            arrays=to_arrays(model),
            config=self._config,
            first=repeat * (1 + self._plan.retries),
            left=left or {},
        )
        arrays, _ = strategy.aggregate_train(number, one_by_one(asking.ask(question, choice)))
        participants = list(self._told(strategy.outcomes, asking.tallies, choice))
        if arrays is None:
            return Tried(None, participants)
        # A median leaves the strategy's memory as it was.
        remembered = None if strategy.forgets else strategy.state or state
        tried = Tried(
            {name: array.numpy() for name, array in arrays.items()},
            participants,
            remembered or strategies.first_state(self._plan, self._model.shapes),
            fallback=strategy.fallback,
            scan=strategy.scan,
        )
        return tried if tried.accepted >= self._plan.min_participants else Tried(None, participants)

    def _root(self, model: Parameters) -> Array:
        from aegis_server.training.sites import root_update

        return flatten(root_update(self._plan, model, self._data))

    def _told(
        self, outcomes: Mapping[str, Outcome], tallies: Mapping[str, Tally], choice: Choice
    ) -> Iterable[Outcome]:
        """Yields what became of every participant, in their order."""
        for site in self._sites:
            if site.name not in outcomes:
                yield Outcome(
                    participant=site.name,
                    outcome=Outcome.OUTCOME_NOT_ASKED,
                    reason=choice.others.get(site.name, ""),
                )
                continue
            outcome, tally = outcomes[site.name], tallies[site.name]
            # Who refuses and sends an update another way has trained all the same.
            least = self._plan.local_steps if outcome.outcome in TRAINED else 0
            outcome.tries, outcome.steps = tally.tries, max(tally.steps, least)
            outcome.seconds = tally.seconds
            outcome.bytes_sent, outcome.bytes_received = tally.bytes_sent, tally.bytes_received
            yield outcome

    def report(
        self, number: int, model: Parameters, participants: list[Outcome], *, steps: int
    ) -> training_pb2.Round:
        """Returns how the model does on the test set, ready to be stored."""
        test = self._data.test
        logits = self._model.logits(model, test.x)
        return training_pb2.Round(
            round=number,
            accuracy=scores.accuracy(logits, test.y),
            loss=scores.log_loss(logits, test.y),
            participants=participants,
            steps=steps,
        )

    def _config(self, repeat: int) -> ConfigRecord:
        plan = self._plan
        config: dict[str, int | float | str | bool | list[float]] = {
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
        if plan.centred:
            config["centre"] = list(centre_of(plan, self._data))
        record = ConfigRecord()
        record.update(config)
        return record


def one_by_one(replies: list[Message]) -> Iterator[Message]:
    """Yields the answers and lets go of each: what it carries is as large as the model."""
    replies.reverse()
    while replies:
        yield replies.pop()
