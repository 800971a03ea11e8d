"""The product's gate in the simulator, and none at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from aegis_learning import parameters
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.fedavgm import FedAvgM
from aegis_learning.aggregation.fltrust import FLTrust
from aegis_learning.aggregation.refusals import NobodyTrusted
from aegis_learning.aggregation.rule import Aggregate, Rule
from aegis_learning.aggregation.updates import Updates
from aegis_learning.parameters import Array, Parameters
from aegis_server.review.candidates import Combine
from aegis_server.review.case import Case, Past, Ruling, Submission, Verdict
from aegis_server.review.lab.simulating import Decided, Gate, Sent
from aegis_server.review.lab.worlds import World
from aegis_server.review.population import Population
from aegis_server.review.publishing import History, publish
from aegis_server.review.vetting import vet

# A run's memory, as in `review.memory`.
_PAST_MAX = 20


def gate(name: str, world: World) -> Gate:
    """Returns a fresh gate: `off`, `on` (review, then the mean) or `robust` (review, FLTrust)."""
    match name:
        case "off":
            return Off(world.momentum)
        case "on":
            return Review(world)
        case "robust":
            return Review(world, combine=trusted_mean)
    raise KeyError(name)


@dataclass(slots=True)
class Off:
    """No review: the mean of whatever comes, weighted by rows."""

    momentum: float = 0.0
    _state: Parameters | None = None

    def decide(self, sent: Sent) -> Decided:
        """See `Gate`."""
        n = len(sent.matrix)
        made = _mean(self.momentum, self._state).aggregate(
            Updates.of(sent.matrix, sent.rows.tolist())
        )
        self._state = made.state
        return Decided(made.update, np.zeros(n, bool), np.zeros(n))


def _mean(momentum: float, state: Parameters | None) -> Rule:
    return FedAvgM(momentum=momentum, state=state) if momentum else FedAvg()


def trusted_mean(population: Population, members: Sequence[int]) -> Aggregate:
    """Returns what FLTrust makes of these updates; no move when it trusts nobody."""
    try:
        return _by_rule(FLTrust(root=population.root), population, members)
    except NobodyTrusted:
        return Aggregate(np.zeros_like(population.root))


def _by_rule(rule: Rule, population: Population, members: Sequence[int]) -> Aggregate:
    chosen = list(members)
    weights = population.examples[chosen].tolist()
    return rule.aggregate(Updates.of(population.matrix[chosen], weights))


@dataclass(slots=True)
class Review:
    """The review of the product: `vet`, with the run's past, then `publish` of what is accepted.

    Without another way to `combine` them it is the mean by rows, with the world's momentum.
    """

    world: World
    combine: Combine | None = None
    detector: bytes = b""
    judge: Callable[[Case], Ruling] = vet
    _before: bytes = b""
    _past: dict[str, tuple[Past, ...]] = field(default_factory=dict)
    _history: History = field(init=False)
    _state: Parameters | None = None

    def __post_init__(self) -> None:
        self._history = History(momentum=0.0 if self.combine else self.world.momentum)

    def decide(self, sent: Sent) -> Decided:
        """See `Gate`."""
        case = self._case(sent)
        ruling = self.judge(case)
        judged = ruling.judgements
        accepted = [i for i, each in enumerate(judged) if each.verdict is Verdict.ACCEPTED]
        for name, each in zip(sent.names, judged, strict=True):
            seen = Past(sent.number, each.verdict, each.score, each.features, each.sketch)
            self._past[name] = (*self._past.get(name, ()), seen)[-_PAST_MAX:]
        delta, kept = self.moved(Population(case), ruling, accepted)
        refused = np.ones(len(judged), bool)
        refused[kept] = False
        scores = np.array([each.score for each in judged])
        return Decided(delta, refused, scores, ruling.fallback)

    def _case(self, sent: Sent) -> Case:
        shapes = self.world.family.shapes
        submissions = tuple(
            Submission(
                update_id=name,
                data=parameters.encode(parameters.unflatten(vector, shapes)),
                examples=int(rows),
                participant=name,
                noise=float(noise),
                past=self._past.get(name, ()),
            )
            for name, vector, rows, noise in zip(
                sent.names, sent.matrix, sent.rows, sent.noise, strict=True
            )
        )
        before, self._before = self._before, parameters.encode(sent.base)
        return Case(
            family=self.world.family,
            golden=self.world.golden,
            base=self._before,
            submissions=submissions,
            before=before,
            round=sent.number,
            local=self.world.local,
            detector=self.detector,
            seed=self.world.seed,
        )

    def moved(
        self, population: Population, ruling: Ruling, accepted: list[int]
    ) -> tuple[Array, list[int]]:
        """Returns the move of the model, and whose updates count as not refused."""
        if ruling.fallback and ruling.members:
            known = [each.update_id for each in population.case.submissions]
            members = [known.index(update_id) for update_id in ruling.members]
            middle: Array = np.median(population.matrix[members], axis=0).astype(np.float32)
            return middle, accepted
        if not accepted:
            return np.zeros(population.matrix.shape[1], np.float32), []
        combine = self.combine or self.mean
        published = publish(population, accepted, combine, self._history)
        self._history, self._state = published.history, published.state
        return published.delta, [i for i in accepted if i not in published.excluded]

    def mean(self, population: Population, members: Sequence[int]) -> Aggregate:
        """Returns the mean of these updates by their rows, with the world's momentum."""
        return _by_rule(_mean(self.world.momentum, self._state), population, members)
