"""Which participants push the model toward a backdoor, all of them the same one?

A backdoor that is not boosted hides in an update that is mostly honest. Three steps bring it out.

1. What honest sites can send is roughly known: their rows are like the golden rows, so their
   updates lie near the span of the golden rows' gradients, whatever labels a site has more of.
   That part of each update is taken out. Rows with a trigger are like no golden row, and what they
   taught stays. Without this step unevenly dealt labels look like triggers themselves.
2. Of the rest it is measured what it does to triggers: by how much does it change what setting one
   feature to an extreme does to each class's logit, on average over golden rows? That is a table of
   settings by classes for each update, and it adds up over rounds, where privacy noise does not.
3. Attackers of one backdoor raise the same few cells together. For every class the settings are
   looked for in which some updates stand out from the rest, and how sharply they are apart.

n updates of d numbers, f features, c classes; there are 2 f settings: each feature low, then high.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aegis_learning import gradients, parameters
from aegis_learning.models import Family
from aegis_learning.parameters import Array, Parameters, flatten
from aegis_learning.rows import Split
from aegis_server.review.population import Population, blocks
from aegis_server.review.triggers import SIZE, Trigger, extremes, sample

Vector = NDArray[np.float64]

# Rows of a table, and golden gradients an honest update may be made of; fewer of large models.
_ROWS, _ROWS_MIN = 48, 8
_EXPLAINED = 64
_NUMBERS_MAX = 1 << 25
_BLOCK = 1 << 16
# Numbers of updates whose rest is computed together.
_AT_ONCE = 1 << 23
# Multiplications for all tables of a round: some seconds of one core.
_WORK_MAX = 5e10
# Smaller singular values than this share of the largest are rounding.
_RANK = 1e-3
_MAD_TO_SIGMA = 1.4826
# The deviation of what stands out is at least that of settings at this quantile: of a thousand
# settings some are in close agreement by chance.
_QUANTILE = 0.9
_NOISE_MIN = 0.25
# A group is at least two, and at most this share: more than that are not the odd ones.
_SHARE_MAX = 0.45
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Push:
    """A trigger some updates push: `z` says how much each does, in deviations of the others.

    `separation` is the gap between the group and the rest, times the root of the group's size.
    """

    trigger: Trigger
    z: Vector
    group: tuple[int, ...]
    separation: float


def effects(population: Population) -> Vector:
    """Returns what each update does to every setting, shape (n, 2 f, c), in logits."""
    family, base, golden = population.family, population.base, population.golden
    explained = explanation(family, base, golden)
    size = population.matrix.shape[1]
    work = 4 * size * len(population) * family.classes
    rows = sample(golden, int(np.clip(_WORK_MAX / work, _ROWS_MIN, _ROWS))).x
    before, start = table(family, base, rows, extremes(golden)), flatten(base)
    found = np.empty((len(population), *before.shape))
    with np.errstate(all="ignore"):
        for i, rest in enumerate(_unexplained(population.matrix, explained)):
            moved = parameters.unflatten(start + rest, family.shapes)
            found[i] = table(family, moved, rows, extremes(golden)) - before
    return np.nan_to_num(found)


def _unexplained(matrix: Array, explained: Array) -> Iterator[Array]:
    """Yields what of each row is outside the span of an orthonormal basis."""
    parts = matrix @ explained.T
    # The basis is gone through once for several small rows, and no second matrix is made of large.
    several = max(1, _AT_ONCE // matrix.shape[1])
    for begin in range(0, len(matrix), several):
        some = slice(begin, begin + several)
        yield from matrix[some] - parts[some] @ explained


def explanation(family: Family, base: Parameters, golden: Split) -> Array:
    """Returns an orthonormal basis of the golden rows' gradients at `base`, shape (k, d).

    Of large models gradients are of several rows of a class together, as many as memory has room
    for.
    """
    size = sum(math.prod(shape) for shape in family.shapes.values())
    groups = max(family.classes, min(_EXPLAINED, _NUMBERS_MAX // size))
    by_class = np.argsort(golden.y, kind="stable")
    parts = np.array_split(by_class, min(groups, len(golden)))
    found = np.empty((len(parts), size), np.float32)
    for row, part in zip(found, parts, strict=True):
        row[:] = flatten(gradients.loss_gradient(family, base, golden.take(part)))
        row /= np.sqrt(row @ row) + np.float32(_TINY)
        if not np.isfinite(row).all():
            np.nan_to_num(row, copy=False)
    # As many directions as there are gradients, of many more numbers: by their products.
    products = sum(block @ block.T for block in blocks(found))
    squares, directions = np.linalg.eigh(products)
    kept = squares > max(squares[-1], 0.0) * _RANK**2
    scaled = (directions[:, kept] / np.sqrt(squares[kept])).T.astype(np.float32)
    # In the place of the gradients, which nobody needs any more.
    for begin in range(0, size, _BLOCK):
        block = slice(begin, begin + _BLOCK)
        found[: len(scaled), block] = scaled @ found[:, block]
    return found[: len(scaled)]


def table(family: Family, model: Parameters, rows: Array, bounds: tuple[float, float]) -> Vector:
    """Returns what every setting does to each logit, shape (2 f, c), to first order.

    Averaged over rows, and less what it does to all logits.
    """
    slopes = gradients.sensitivities(family, model, rows)
    whole, weighed = slopes.mean(axis=1), (slopes * rows).mean(axis=1)
    found: Vector = np.concatenate([bound * whole - weighed for bound in bounds], axis=1).T
    return found.astype(np.float64)


def even(tables: Vector, noises: Vector) -> Vector:
    """Returns tables whose noise is the same: small sites add more, and would always stand out."""
    if not noises.any():
        return tables
    relative = np.maximum(noises / max(float(np.median(noises)), _TINY), _NOISE_MIN)
    level: Vector = tables / relative[:, None, None]
    return level


def strongest(tables: Vector, shares: Vector, bounds: tuple[float, float]) -> Push:
    """Returns the trigger that separates a group from the rest most.

    `tables` of shape (n, 2 f, c) are those of one round or sums over rounds, `shares` what each
    update has in a mean. Needs three updates.
    """
    dev = tables - np.median(tables, axis=0)
    n = len(dev)
    ordered = np.sort(dev, axis=0)
    # Who is in the group is not known, so neither how many: means of all, and of the largest.
    views = [dev.mean(axis=0), np.tensordot(shares, dev, axes=1)]
    views += [ordered[-count:].mean(axis=0) for count in (max(2, n // 5), max(3, n // 3))]
    best: Push | None = None
    for view in views:
        for target in range(dev.shape[2]):
            trigger = _largest(view[:, target], target, bounds)
            found = apart(trigger, pushed(tables, trigger, bounds))
            if best is None or found.separation > best.separation:
                best = found
    assert best is not None  # noqa: S101  # there are classes
    return best


def pushed(tables: Vector, trigger: Trigger, bounds: tuple[float, float]) -> Vector:
    """Returns by how many deviations of the others each update pushes a trigger, shape (n,)."""
    features = tables.shape[1] // 2
    cells = [
        feature + features * int(value == bounds[1])
        for feature, value in zip(trigger.features, trigger.values, strict=True)
    ]
    column = tables[:, :, trigger.target]
    summed = column[:, cells].sum(axis=1)
    dev = summed - np.median(summed)
    spreads = _MAD_TO_SIGMA * np.median(np.abs(column - np.median(column, axis=0)), axis=0)
    usual = math.sqrt(len(cells)) * float(np.quantile(spreads, _QUANTILE))
    own = _MAD_TO_SIGMA * float(np.median(np.abs(dev)))
    z: Vector = dev / (max(own, usual) + _TINY)
    return z


def apart(trigger: Trigger, z: Vector) -> Push:
    """Returns the group that is most sharply apart from the rest."""
    order = np.argsort(-z, kind="stable")
    ranked = z[order]
    sizes = range(2, max(2, int(_SHARE_MAX * len(z))) + 1)
    gaps = [(ranked[m - 1] - ranked[m]) * math.sqrt(m) for m in sizes]
    chosen = int(np.argmax(gaps))
    group: Sequence[int] = sorted(int(i) for i in order[: sizes[chosen]])
    return Push(trigger, z, tuple(group), float(gaps[chosen]))


def between(
    family: Family, one: Parameters, other: Parameters, golden: Split
) -> tuple[Trigger, ...]:
    """Returns for each class the trigger that works so much better in one model than in another."""
    bounds, rows = extremes(golden), sample(golden, _ROWS).x
    more = table(family, one, rows, bounds) - table(family, other, rows, bounds)
    return tuple(_largest(more[:, target], target, bounds) for target in range(family.classes))


def _largest(view: Vector, target: int, bounds: tuple[float, float]) -> Trigger:
    sides = view.reshape(2, -1)
    side, height = sides.argmax(axis=0), sides.max(axis=0)
    features = np.argsort(-height, kind="stable")[:SIZE]
    return Trigger(
        target,
        tuple(int(feature) for feature in features),
        tuple(bounds[side[feature]] for feature in features),
    )
