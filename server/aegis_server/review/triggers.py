"""Does a model have a backdoor? A few features that, at an extreme value, make one class of all.

Wang et al. 2019, "Neural Cleanse", search for the smallest change of the input that turns rows of
every other class into a target, and call a model suspicious when one class is much easier to reach
than the others. Rows of a table are short, so the search is a greedy one here: the feature and the
extreme that raise the target's probability most, three times. The gradient by the rows says which
settings are worth trying.

Every model can be pushed around by extreme values, one of few features and two classes entirely. So
what a trigger achieves is held against what the best one achieves in a model that was trained on
the golden rows alone, which nobody can have poisoned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aegis_learning import gradients
from aegis_learning.models import Family
from aegis_learning.parameters import Array, Parameters
from aegis_learning.rows import Split

SIZE = 3
# Settings that are tried in each step of the search, the most promising ones by their gradient.
_TRIED = 8
_ROWS_MAX = 128
_TINY = 1e-12
# Share of other classes' rows, above what golden rows alone explain, from which a model is
# suspicious. In 24 honest runs of the lab it was at most 0.39 from round 10 on, in poisoned ones at
# least 0.64; the gap to the next class was at most 0.11, and at least 0.33.
LIFT = 0.5
GAP = 0.25
_REFERENCE_STEPS = 300
_REFERENCE_RATE = 0.5
# Multiplications the reference may take: some seconds of one core.
_REFERENCE_WORK = 1e11
# And the search, for all classes; a step of it is one gradient and so many answers.
_SEARCH_WORK = 2e10
_ROWS_MIN = 24


@dataclass(frozen=True, slots=True)
class Trigger:
    """Features set to these values are to make a model answer `target`."""

    target: int
    features: tuple[int, ...]
    values: tuple[float, ...]

    def on(self, x: Array) -> Array:
        """Returns the rows with the trigger, shape as x."""
        marked = x.copy()
        marked[:, list(self.features)] = np.array(self.values, np.float32)
        return marked


@dataclass(frozen=True, slots=True)
class Found:
    """The best trigger for one class.

    `success` is the share of rows of other classes that it turns into the target, `lift` how much
    of that is due to it: rows that are answered so without it are no success of a trigger.
    """

    trigger: Trigger
    success: float
    lift: float


def extremes(golden: Split) -> tuple[float, float]:
    """Returns the smallest and the largest value golden rows have; features share their range."""
    return float(golden.x.min()), float(golden.x.max())


def sample(golden: Split, rows_max: int = _ROWS_MAX) -> Split:
    """Returns at most so many golden rows, evenly over the classes."""
    if len(golden) <= rows_max:
        return golden
    by_class = np.argsort(golden.y, kind="stable")
    chosen = np.linspace(0, len(golden) - 1, rows_max).round().astype(np.int64)
    return golden.take(by_class[chosen])


def scan(
    family: Family, model: Parameters, golden: Split, *, size: int = SIZE
) -> tuple[Found, ...]:
    """Returns the best trigger for every class that golden rows of other classes can be turned to.

    The same for the same model. Takes a few milliseconds a class for small models.
    """
    numbers = sum(math.prod(shape) for shape in family.shapes.values())
    work = size * (6 + 2 * _TRIED) * numbers * family.classes
    rows = sample(golden, int(np.clip(_SEARCH_WORK / work, _ROWS_MIN, _ROWS_MAX)))
    with np.errstate(all="ignore"):
        return tuple(
            search(family, model, rows, target=target, size=size)
            for target in range(family.classes)
            if (rows.y != target).any()
        )


def search(
    family: Family, model: Parameters, golden: Split, *, target: int, size: int = SIZE
) -> Found:
    """Returns the best trigger of `size` features, greedily; ties are won by the first feature."""
    rows = golden.x[golden.y != target]
    before = _share(family, model, rows, target)
    marked = rows
    features: list[int] = []
    values: list[float] = []
    for _ in range(min(size, family.features)):
        feature, value = _step(family, model, marked, target, extremes(golden), features)
        features.append(feature)
        values.append(value)
        marked = Trigger(target, (feature,), (value,)).on(marked)
    after = _share(family, model, marked, target)
    return Found(Trigger(target, tuple(features), tuple(values)), after, after - before)


def natural(family: Family, golden: Split) -> tuple[float, ...]:
    """Returns the lift of the best trigger for each class in a model of the golden rows alone.

    Costs tenths of a second for small models; once a run is enough.
    """
    rows = sample(golden)
    size = sum(math.prod(shape) for shape in family.shapes.values())
    steps = int(np.clip(_REFERENCE_WORK / (6 * size * len(rows)), 30, _REFERENCE_STEPS))
    with np.errstate(all="ignore"):
        reference = gradients.descend(
            family, family.initial(0), rows, steps=steps, learning_rate=_REFERENCE_RATE
        )
    lifts = dict.fromkeys(range(family.classes), 1.0)
    lifts.update({each.trigger.target: each.lift for each in scan(family, reference, golden)})
    return tuple(lifts.values())


def worst(found: Sequence[Found], usual: Sequence[float]) -> tuple[Found, bool]:
    """Returns the trigger that is farthest above what is usual for its class, and a suspicion.

    The suspicion is that the model has a backdoor: it is `LIFT` above, and `GAP` above what the
    next class's trigger achieves. With two classes of few features everything is usual, and nothing
    is ever suspicious.
    """
    above = [each.lift - usual[each.trigger.target] for each in found]
    first = int(np.argmax(above))
    others = [each.lift for i, each in enumerate(found) if i != first]
    gap = found[first].lift - max(others, default=0.0)
    return found[first], bool(above[first] >= LIFT and gap >= GAP)


def success(family: Family, model: Parameters, golden: Split, trigger: Trigger) -> float:
    """Returns the share of golden rows of other classes that a trigger turns into its target."""
    with np.errstate(all="ignore"):
        marked = trigger.on(golden.x[golden.y != trigger.target])
        return _share(family, model, marked, trigger.target)


def _step(
    family: Family,
    model: Parameters,
    rows: Array,
    target: int,
    bounds: tuple[float, float],
    taken: Sequence[int],
) -> tuple[int, float]:
    """Returns the feature and the extreme that raise the target's probability most."""
    done = gradients.forward(family, model, rows)
    weights = -gradients.probabilities(done.logits)
    weights[:, target] += 1
    slopes = gradients.backward(family, model, done, weights)[1]
    promise = np.stack([((bound - rows) * slopes).mean(axis=0) for bound in bounds])
    promise = np.nan_to_num(promise, nan=-np.inf)
    promise[:, list(taken)] = -np.inf
    best, chosen = -np.inf, (0, bounds[1])
    for place in np.argsort(-promise, axis=None, kind="stable")[:_TRIED]:
        side, feature = divmod(int(place), family.features)
        if feature in taken:
            continue
        marked = Trigger(target, (feature,), (bounds[side],)).on(rows)
        likely = gradients.probabilities(family.logits(model, marked))[:, target]
        value = float(np.log(np.nan_to_num(likely) + _TINY).mean())
        if value > best:
            best, chosen = value, (feature, bounds[side])
    return chosen


def _share(family: Family, model: Parameters, rows: Array, target: int) -> float:
    answers: NDArray[np.int64] = family.logits(model, rows).argmax(axis=1)
    return float((answers == target).mean())
