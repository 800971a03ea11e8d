"""Who has given what to a model that is a weighted mean of updates, round after round.

A model of FedAvg is its initial one plus a sum over rounds and participants of share times update;
with momentum every gift goes on giving (see `aggregation.fedavgm`). As long as that is how a round
was made, the gifts of each participant are known, and a model without somebody is the initial one
plus the others' gifts, grown to the whole. It is what the others would have made, but for their
having trained from models that participant had a part in (Liu et al. 2021, "FedEraser", retrain for
that as well, which would cost every participant privacy).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aegis_learning.aggregation.rule import Aggregate
from aegis_learning.parameters import Array
from aegis_server.review.population import Population

# Numbers all gifts may be together: 512 MiB with momentum.
_NUMBERS_MAX = 1 << 26
# Rounding, of the largest of sums of float32.
_CLOSE = 1e-3
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Gift:
    """What one participant gave: to the model so far, to its velocity, and its share of rounds."""

    total: Array
    velocity: Array
    shares: float

    @classmethod
    def none(cls, like: Array) -> Gift:
        """Returns that of somebody who is new."""
        return cls(np.zeros_like(like), np.zeros_like(like), 0.0)

    def times(self, factor: np.float32) -> Gift:
        """Returns it so many times over."""
        return Gift(factor * self.total, factor * self.velocity, float(factor) * self.shares)


@dataclass(frozen=True, slots=True)
class Gifts:
    """All gifts of a run; not `known` once a round was no weighted mean, or there is no room."""

    momentum: float
    by_name: Mapping[str, Gift] = field(default_factory=dict)
    rounds: int = 0
    known: bool = True

    @classmethod
    def none(cls, population: Population, momentum: float) -> Gifts:
        """Returns those of a run that has not begun."""
        return cls(momentum, known=population.matrix.size <= _NUMBERS_MAX)

    def without(self, names: Collection[str]) -> Lost:
        """Returns what it means to take these out of all the rounds there were."""
        gone = [self.by_name[name] for name in sorted(names) if name in self.by_name]
        rest = {name: gift for name, gift in self.by_name.items() if name not in names}
        left = self.rounds - sum(gift.shares for gift in gone)
        if not self.known or not any(gift.shares > 0 for gift in gone) or left <= 0:
            return Lost(self)
        grown = np.float32(self.rounds / left)
        kept = {name: gift.times(grown) for name, gift in rest.items()}
        model = _sum([g.total for g in kept.values()]) - _sum([g.total for g in self._all])
        velocity = _sum([g.velocity for g in kept.values()]) - _sum([g.velocity for g in self._all])
        # What the rule adds of its momentum in this round is of those who are gone as well.
        comes = np.float32(self.momentum) * velocity
        return Lost(replace(self, by_name=kept), model + comes, comes if self.momentum else None)

    @property
    def _all(self) -> list[Gift]:
        return list(self.by_name.values())

    def and_of(self, updates: Mapping[str, Array], made: Aggregate, before: Gifts) -> Gifts:
        """Returns gifts after a round in which the rule `made` this of these updates, in order.

        `before` are the gifts that the rule's own momentum is of.
        """
        if not self.known or len(made.shares) != len(updates):
            return Gifts(self.momentum, known=False)
        shares = dict(zip(updates, made.shares, strict=True))
        parts = [np.float32(shares[name]) * update for name, update in updates.items()]
        momentum = np.float32(self.momentum)
        expected = _sum(parts) + momentum * _sum([gift.velocity for gift in before._all])
        length = max(float(np.linalg.norm(made.update)), _TINY)
        if float(np.linalg.norm(expected - made.update)) > _CLOSE * length:
            return Gifts(self.momentum, known=False)
        now = dict(zip(updates, parts, strict=True))
        after: dict[str, Gift] = {}
        for name in sorted({*self.by_name, *updates}):
            gift = self.by_name.get(name) or Gift.none(made.update)
            velocity = momentum * gift.velocity
            if name in now:
                velocity = velocity + now[name]
            share = shares.get(name, 0.0)
            after[name] = Gift(gift.total + velocity, velocity, gift.shares + share)
        return replace(self, by_name=after, rounds=self.rounds + 1)


@dataclass(frozen=True, slots=True)
class Lost:
    """What taking somebody out means: `model` is to be added to the next model, `velocity` to the
    rule's momentum; None when nothing was given.
    """

    gifts: Gifts
    model: Array | None = None
    velocity: Array | None = None


def _sum(vectors: Sequence[Array]) -> Array:
    total: Array = np.sum(np.stack(vectors), axis=0) if vectors else np.zeros(1, np.float32)
    return total
