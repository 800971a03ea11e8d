"""Rounds to judge: real data, a real model, DP-SGD's clipping and noise, and what attackers do."""

from __future__ import annotations

import numpy as np

from aegis_learning import datasets, models, parameters
from aegis_learning.datasets import Split
from aegis_learning.parameters import Parameters
from aegis_server.review.population import Population
from aegis_server.review.vetting import Case, Submission

DATASET = datasets.load("breast-cancer")
FAMILY = models.family("logistic", 30, 2)
SITES = 5
_NOISE = 8.0


def population(*vectors, examples=None, noise: float = 0.0, base=None) -> Population:
    """A round of updates given as vectors, all numbers of a linear model of two classes.

    Vectors of any even length from 4; golden rows are drawn.
    """
    rows = [np.asarray(vector, np.float32) for vector in vectors]
    family = models.family("logistic", len(rows[0]) // 2 - 1, 2)
    random = np.random.default_rng(7)
    golden = Split(
        random.uniform(-1, 1, (20, family.features)).astype(np.float32),
        (np.arange(20) % 2).astype(np.int64),
    )
    submissions = tuple(
        Submission(
            f"u{i}",
            parameters.encode(parameters.unflatten(row, family.shapes)),
            10 if examples is None else examples[i],
            f"p{i}",
            noise,
        )
        for i, row in enumerate(rows)
    )
    start = family.initial(0) if base is None else base
    return Population(Case(family, golden, parameters.encode(start), submissions))


def measured(examination, measure: str) -> list[float]:
    """The values of one measure, by update."""
    return [next(f.value for f in each if f.measure == measure) for each in examination.findings]


def honest_update(
    base: Parameters, split: Split, random: np.random.Generator, *, flipped: bool = False
) -> Parameters:
    """One full-batch DP-SGD step of logistic regression: clipped to 0.5, noise 8 / rows."""
    logits = FAMILY.logits(base, split.x).astype(np.float64)
    errors = np.exp(logits - logits.max(axis=1, keepdims=True))
    errors /= errors.sum(axis=1, keepdims=True)
    errors[np.arange(len(split)), 1 - split.y if flipped else split.y] -= 1
    lengths = np.linalg.norm(errors, axis=1) * np.sqrt((split.x**2).sum(axis=1) + 1)
    errors *= np.minimum(1, 0.5 / lengths)[:, None]
    gradient = {"layer1.weight": errors.T @ split.x, "layer1.bias": errors.sum(axis=0)}
    return {
        name: ((-values + random.normal(0, _NOISE, values.shape)) / len(split)).astype(np.float32)
        for name, values in gradient.items()
    }


def attacked(
    kind: str, base: Parameters, split: Split, random: np.random.Generator, factor: float = 10.0
) -> Parameters:
    """What an attacker sends in place of its honest update, `factor` times as long."""
    update = honest_update(base, split, random, flipped=kind == "label-flip")
    if kind == "sign-flip":
        return parameters.scale(update, -factor)
    if kind == "noise":
        length = float(np.linalg.norm(parameters.flatten(update)))
        noise = {n: random.normal(size=v.shape).astype(np.float32) for n, v in update.items()}
        return parameters.scale(
            noise, factor * length / float(np.linalg.norm(parameters.flatten(noise)))
        )
    return parameters.scale(update, factor)


def a_round(*, seed: int = 1, sites: int = SITES, **attackers: str) -> Case:
    """A round of `sites` sites; `s3="sign-flip"` makes the third an attacker."""
    base = FAMILY.initial(seed)
    random = np.random.default_rng(seed)
    submissions = []
    for number, split in enumerate(datasets.partition(DATASET.shared, sites, 1.0, seed), start=1):
        kind = attackers.get(f"s{number}")
        update = attacked(kind, base, split, random) if kind else honest_update(base, split, random)
        name, noise = f"s{number}", _NOISE / len(split)
        submissions.append(Submission(name, parameters.encode(update), len(split), name, noise))
    return Case(FAMILY, DATASET.golden, parameters.encode(base), tuple(submissions))
