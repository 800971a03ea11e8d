"""Has it gone, over the run, where right labels lead?

Whatever labels a site has, its steps lead into the cone of the golden rows' slopes by class
(`mixture`). Who goes backward leads into the opposite one; who trains on wrong labels into that of
the same rows with all labels but their own. Which of two cones an update is nearer to says little
in one round under privacy noise, but of noise it is known what to expect, and the rest adds up.
No detector is needed, and it does not matter who has which labels.

`backward` and `wrong` are sums over the run, in deviations of pure noise (drawn by Monte Carlo, as
the cones' shapes decide), weighed by the fourth power of the length of the golden rows' own update:
near the optimum slopes of classes are each other's opposites and say nothing, however many rounds
are spent there. Golden rows are not everybody's, so a sum counts only when the mean it is of is as
far to the wrong side as three tenths of how far the median of the round is to the right one, and
only of those who were there for half of what counts. Where most are on the wrong side, it is
silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aegis_learning.parameters import Array
from aegis_server.review.case import OF_THE_RUN, Submission
from aegis_server.review.deviations import Vector
from aegis_server.review.examiners.mixture import (
    nearest,
    of_classes,
    products_with,
    slopes_by_class,
)
from aegis_server.review.findings import Examination, Finding, decisive
from aegis_server.review.population import Population

if TYPE_CHECKING:
    from aegis_server.review.examining import Examined

NAME = "labels"

#: Deviations of noise to the wrong side.
DEVIATIONS = -2.5
_SHARE = 0.3
_THERE = 0.5
_WORDS = {
    "backward": "away from where every mix of labels leads",
    "wrong": "where rows with wrong labels lead",
}
# What a participant's next round needs of this one.
_SUMS = {OF_THE_RUN + measure: measure for measure in _WORDS}
_WEIGHT, _SQUARES = OF_THE_RUN + "weight", OF_THE_RUN + "squares"
_REMEMBERED = (*_SUMS, _WEIGHT, _SQUARES)
_DRAWN = 512
_TINY = 1e-30


def examine(population: Population) -> Examination:
    """Returns how far to the wrong side each has gone."""
    sums = population.once(NAME, lambda: _added(population))
    there = sums[_WEIGHT] >= _THERE * sums[_WEIGHT].max()
    findings: list[list[Finding]] = [[] for _ in range(len(population))]
    for name, measure in _SUMS.items():
        means, deviations = sums[name] / sums[_WEIGHT], sums[name] / np.sqrt(sums[_SQUARES])
        usual = float(np.median(means[there]))
        counts = there & (usual > 0) & (means <= -_SHARE * usual)
        for each, deviation, counted in zip(findings, deviations, counts, strict=True):
            each.append(_finding(measure, float(deviation), counted=bool(counted)))
    return Examination(findings, sums)


def remember(features: Sequence[Mapping[str, float]], examined: Examined) -> list[dict[str, float]]:
    """Returns what is remembered of each update, with what its successors need.

    Not of those this examiner failed on: their last sums stay.
    """
    found = {name: examined.features[name] for name in _REMEMBERED if name in examined.features}
    failed = {
        i for i, them in examined.failed.items() if any(each.examiner == NAME for each in them)
    }
    return [
        {**each, **({} if i in failed else {name: float(v[i]) for name, v in found.items()})}
        for i, each in enumerate(features)
    ]


def _added(population: Population) -> dict[str, Vector]:
    """Returns the sums with this round in them, each of shape (n,)."""
    n = len(population)
    with np.errstate(over="ignore"):
        length = float(np.linalg.norm(population.root))
    # A golden update that is not finite leads nowhere.
    weight = max(length**4, _TINY) if np.isfinite(length) else _TINY
    now = {name: weight * values for name, values in _sides(population).items()}
    now |= {_WEIGHT: np.full(n, weight), _SQUARES: np.full(n, weight**2)}
    before = [_so_far(each) for each in population.case.submissions]
    return {
        name: values + np.array([sums.get(name, 0.0) for sums in before], np.float64)
        for name, values in now.items()
    }


def _so_far(submission: Submission) -> Mapping[str, float]:
    """Returns the sums of the participant's last round that has them."""
    for past in reversed(submission.past):
        if all(name in past.features for name in _REMEMBERED):
            return past.features
    return {}


def _sides(population: Population) -> dict[str, Vector]:
    """Returns how much nearer to the right cone each is in this round, in deviations of noise."""
    products, gram, own = products_with(population, _directions(population))
    if not np.isfinite(gram).all():
        return {name: np.zeros(len(population)) for name in _SUMS}
    chance = _nearer(*_chance(gram, numbers=population.sampled.shape[1]))
    return {
        name: (values - noise.mean()) / max(float(noise.std()), _TINY)
        for name, values, noise in zip(_SUMS, _nearer(products, gram, own), chance, strict=True)
    }


def _directions(population: Population) -> Array:
    """Returns the slopes of right labels by class, then of wrong ones, on the sampled columns."""
    right = population.once("slopes", lambda: slopes_by_class(population))[0]
    wrong = [
        population.downhill(rows, mislabelled=True)[:: population.stride].copy()
        for rows in of_classes(population)
    ]
    return np.concatenate([right, np.stack(wrong)])


def _nearer(products: Vector, gram: Vector, own: Vector) -> tuple[Vector, Vector]:
    """Returns the cosine to the cone of the first half of the directions, less that to another.

    The other one is its opposite, and that of the second half.
    """
    c = len(gram) // 2
    right, wrong = products[:, :c], products[:, c:]
    inside = nearest(right, gram[:c, :c], own)
    return (
        inside - nearest(-right, gram[:c, :c], own),
        inside - nearest(wrong, gram[c:, c:], own),
    )


def _chance(gram: Vector, *, numbers: int) -> tuple[Vector, Vector, Vector]:
    """Returns products as of updates of pure noise."""
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    drawn = np.random.default_rng(0).normal(size=(_DRAWN, len(gram))) @ root.T
    return drawn, gram, np.full(_DRAWN, float(numbers))


def _finding(measure: str, deviations: float, *, counted: bool) -> Finding:
    strength = decisive(deviations / DEVIATIONS) if counted else 0.0
    words = _WORDS[measure]
    text = f"over the run it does not lead {words}"
    if strength >= 1:
        text = f"over the run it leads {words}, by {-deviations:.1f} deviations of noise"
    return Finding(NAME, measure, deviations, DEVIATIONS, strength, text)
