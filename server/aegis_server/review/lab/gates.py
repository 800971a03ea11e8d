"""The product's gate in the simulator, and none at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from aegis_learning import parameters
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.rule import Rule
from aegis_learning.aggregation.updates import Updates
from aegis_learning.parameters import Array
from aegis_server.review.case import Case, Past, Ruling, Submission, Verdict
from aegis_server.review.lab.simulating import Decided, Sent
from aegis_server.review.lab.worlds import World
from aegis_server.review.vetting import vet

# A run's memory, as in `review.memory`.
_PAST_MAX = 20


@dataclass(frozen=True, slots=True)
class Off:
    """No review: the mean of whatever comes, weighted by rows."""

    def decide(self, sent: Sent) -> Decided:
        """See `Gate`."""
        n = len(sent.matrix)
        return Decided(weighted_mean(sent, range(n)), np.zeros(n, bool), np.zeros(n))


Combine = Callable[[Sent, Sequence[int]], Array]


def weighted_mean(sent: Sent, members: Sequence[int]) -> Array:
    """Returns the mean of these updates by their rows."""
    return by_rule(FedAvg(), sent, members)


def by_rule(rule: Rule, sent: Sent, members: Sequence[int]) -> Array:
    """Returns what a rule makes of these updates."""
    chosen = list(members)
    weights = sent.rows[chosen].tolist()
    return rule.aggregate(Updates.of(sent.matrix[chosen], weights)).update


@dataclass(slots=True)
class Review:
    """The review of the product: `vet`, with the run's past, then the mean of what is accepted."""

    world: World
    combine: Combine = weighted_mean
    detector: bytes = b""
    _past: dict[str, tuple[Past, ...]] = field(default_factory=dict)

    def decide(self, sent: Sent) -> Decided:
        """See `Gate`."""
        ruling = vet(self._case(sent))
        judged = ruling.judgements
        accepted = [i for i, each in enumerate(judged) if each.verdict is Verdict.ACCEPTED]
        for name, each in zip(sent.names, judged, strict=True):
            seen = Past(sent.number, each.verdict, each.score, each.features, each.sketch)
            self._past[name] = (*self._past.get(name, ()), seen)[-_PAST_MAX:]
        refused = np.ones(len(judged), bool)
        refused[accepted] = False
        return Decided(
            self._moved(sent, ruling, accepted),
            refused,
            np.array([each.score for each in judged]),
            ruling.fallback,
        )

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
        return Case(
            family=self.world.family,
            golden=self.world.golden,
            base=parameters.encode(sent.base),
            submissions=submissions,
            round=sent.number,
            local=self.world.local,
            detector=self.detector,
            seed=self.world.seed,
        )

    def _moved(self, sent: Sent, ruling: Ruling, accepted: Sequence[int]) -> Array:
        if ruling.fallback and ruling.members:
            members = [sent.names.index(name) for name in ruling.members]
            middle: Array = np.median(sent.matrix[members], axis=0).astype(np.float32)
            return middle
        if not accepted:
            return np.zeros(sent.matrix.shape[1], np.float32)
        return self.combine(sent, accepted)
