"""A run in a closed loop: sites train, some lie, a gate decides, and the model lives with it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aegis_learning import parameters
from aegis_learning.parameters import Array, Parameters
from aegis_learning.scores import accuracy
from aegis_server.review.lab.attacking import Attack, View
from aegis_server.review.lab.sites import train
from aegis_server.review.lab.worlds import World

Flags = NDArray[np.bool_]
Vector = NDArray[np.float64]
# Further than this no honest model goes; a run that was lost must not end in an overflow.
_NUMBER_MAX = 1e6


@dataclass(frozen=True, slots=True)
class Sent:
    """A round's updates, shape (n, d), before the gate; `rows` and `noise` are of shape (n,).

    `noise` is the standard deviation each number has at least when the site keeps its promise.
    """

    number: int
    base: Parameters
    matrix: Array
    rows: NDArray[np.int64]
    noise: Vector
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decided:
    """What a gate makes of a round: the move of the model, and who has no part in it.

    `scores` rise with suspicion. `fallback` says that the gate could not tell and was robust.
    """

    delta: Array
    refused: Flags
    scores: Vector
    fallback: bool = False


class Gate(Protocol):
    """Decides a run's rounds, one after the other; it may remember."""

    def decide(self, sent: Sent) -> Decided:
        """Judges and aggregates a round."""


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """One round, by site: who attacked, who was refused, how suspicious; after it, the accuracy."""

    attacking: Flags
    refused: Flags
    scores: Vector
    accuracy: float
    fallback: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run. `backdoor` is the share of test rows of other classes that the trigger turns."""

    rounds: tuple[RoundOutcome, ...]
    accuracy: float
    backdoor: float
    model: Parameters

    @property
    def seconds(self) -> float:
        """What the gate's work took."""
        return sum(each.seconds for each in self.rounds)

    @property
    def tpr(self) -> float:
        """Share of poisoned updates that were refused; NaN when there was none."""
        return _share([each.refused[each.attacking] for each in self.rounds])

    @property
    def fpr(self) -> float:
        """Share of honest updates that were refused, in rounds with an attack if there were any."""
        attacked = [each for each in self.rounds if each.attacking.any()]
        return _share([each.refused[~each.attacking] for each in attacked or self.rounds])

    @property
    def scores(self) -> tuple[Vector, Vector]:
        """Scores of the honest and of the poisoned updates of all rounds."""
        return (
            np.concatenate([each.scores[~each.attacking] for each in self.rounds]),
            np.concatenate([each.scores[each.attacking] for each in self.rounds]),
        )


def simulate(
    world: World,
    attack: Attack | None,
    gate: Gate,
    *,
    rounds: int,
    seed: int,
    malicious: float = 0.3,
    quiet: bool = False,
) -> Outcome:
    """Runs `rounds` rounds; the same seed draws the same samples, noise and attackers.

    `malicious` is the share of the sites that attack; `quiet` attackers leave their noise out.
    """
    n = len(world.sites.rows)
    honest_random = _random(seed, 1)
    liars, random = liars_of(n, malicious if attack is not None else 0.0, seed)
    model = world.family.initial(seed)
    previous: Array | None = None
    outcomes = []
    for number in range(1, rounds + 1):
        matrix = train(world.family, model, world.sites, world.plan, honest_random)
        attacking = np.zeros(n, bool)
        if attack is not None and len(liars):
            view = _view(world, model, matrix, liars, number, previous, random, quiet=quiet)
            poison = attack.poison(view).astype(np.float32)
            attacking[liars] = (poison != matrix[liars]).any(axis=1)
            matrix[liars] = poison
        sent = Sent(
            number=number,
            base=model,
            matrix=_bounded(matrix),
            rows=world.sites.rows,
            noise=world.plan.noise(world.sites.rows),
            names=tuple(f"site-{site + 1}" for site in range(n)),
        )
        began = time.perf_counter()
        decided = gate.decide(sent)
        seconds = time.perf_counter() - began
        previous = _bounded(decided.delta)
        moved = _bounded(parameters.flatten(model) + previous)
        model = parameters.unflatten(moved, world.family.shapes)
        outcomes.append(
            RoundOutcome(
                attacking=attacking,
                refused=decided.refused,
                scores=decided.scores,
                accuracy=_accuracy(world, model),
                fallback=decided.fallback,
                seconds=seconds,
            )
        )
    return Outcome(tuple(outcomes), outcomes[-1].accuracy, backdoor_success(world, model), model)


def liars_of(n: int, malicious: float, seed: int) -> tuple[NDArray[np.int64], np.random.Generator]:
    """Returns which of n sites attack in a run of this seed, and what they go on drawing from."""
    random = _random(seed, 2)
    return np.sort(random.permutation(n)[: round(malicious * n)]), random


def _random(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed & (2**63 - 1), stream])


def backdoor_success(world: World, model: Parameters) -> float:
    """Returns the share of test rows of other classes that the world's trigger turns."""
    others = world.test.y != world.trigger.target
    logits = world.family.logits(model, world.trigger.on(world.test.x[others]))
    return float((logits.argmax(axis=1) == world.trigger.target).mean())


def _view(
    world: World,
    model: Parameters,
    honest: Array,
    liars: NDArray[np.int64],
    number: int,
    previous: Array | None,
    random: np.random.Generator,
    *,
    quiet: bool,
) -> View:
    view = View(
        round=number,
        family=world.family,
        base=model,
        honest=honest[liars],
        sites=world.sites.take(liars),
        total=len(honest),
        plan=world.plan,
        trigger=world.trigger,
        previous=previous,
        random=random,
    )
    if not quiet or not world.plan.noise_multiplier:
        return view
    silenced = replace(view, plan=replace(world.plan, noise_multiplier=0.0))
    return replace(silenced, honest=silenced.train(silenced.sites))


def _bounded(values: Array) -> Array:
    return np.clip(np.nan_to_num(values), -_NUMBER_MAX, _NUMBER_MAX).astype(np.float32)


def _accuracy(world: World, model: Parameters) -> float:
    return accuracy(world.family.logits(model, world.test.x), world.test.y)


def _share(flags: list[Flags]) -> float:
    together = np.concatenate(flags)
    return float(together.mean()) if len(together) else float("nan")
