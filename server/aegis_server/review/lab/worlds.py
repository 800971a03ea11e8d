"""Worlds to attack: rows dealt to sites, a golden set, a test set, a model, a trigger.

Everything follows from the world's own seed, so that every contender meets the same worlds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aegis_learning import datasets, models
from aegis_learning.models import Family
from aegis_learning.parameters import Array
from aegis_learning.plans import DEFAULTS, PlanDefaults, defaults_for
from aegis_learning.privacy import noise_multiplier
from aegis_learning.rows import Split
from aegis_server.review.case import Local
from aegis_server.review.lab.sites import Plan, Sites

DATA = ("digits", "breast-cancer")
#: How sites train with privacy: as in the demo, or as they learn most from an epsilon.
PLANS = ("demo", "tuned")
SITES = 20
_ROWS_MIN = 8
_TRIGGER_FEATURES = 3
_FAMILIES = {"digits": "mlp-32", "breast-cancer": "mlp"}
_GOLDEN_ROWS = {"digits": 100, "breast-cancer": 64}
_TEST_ROWS = {"digits": 400, "breast-cancer": 114}


@dataclass(frozen=True, slots=True)
class Trigger:
    """Features set to these values make a backdoored model answer `target`."""

    features: NDArray[np.int64]
    values: Array
    target: int

    def on(self, x: Array) -> Array:
        """Returns the rows with the trigger."""
        marked = x.copy()
        marked[:, self.features] = self.values
        return marked


@dataclass(frozen=True, slots=True)
class World:
    """Sites with their rows, and what the review has; `alpha` None means rows are dealt evenly.

    `momentum` is the server's: how much of a round's move of the model the next one repeats.
    """

    name: str
    family: Family
    sites: Sites
    golden: Split
    test: Split
    plan: Plan
    trigger: Trigger
    alpha: float | None
    epsilon: float | None
    seed: int
    momentum: float = 0.0

    @property
    def local(self) -> Local:
        """What the review repeats on its golden rows."""
        return Local(self.plan.steps, self.plan.learning_rate, self.plan.centre)


def world(
    name: str,
    *,
    seed: int,
    alpha: float | None = None,
    epsilon: float | None = None,
    rounds: int = 20,
    sites: int = SITES,
    model: str = "",
    plan: str = "demo",
) -> World:
    """Returns the world of this seed.

    `name` is one of `DATA`, `alpha` the concentration of the Dirichlet distribution each class is
    dealt by, `epsilon` what `rounds` rounds may cost each site (None: no privacy), `plan` one of
    `PLANS`, which are alike without privacy. Raises KeyError for another name, ValueError for more
    sites than there are rows for.
    """
    random = np.random.default_rng([seed & (2**63 - 1), 0x6C6162])
    whole = _rows(name)
    whole = whole.take(random.permutation(len(whole)))
    golden, rest = datasets.split_evaluation(whole, _GOLDEN_ROWS[name] / len(whole))
    test, train = datasets.split_evaluation(rest, _TEST_ROWS[name] / len(rest))
    kind = model or _FAMILIES[name]
    family = models.family(kind, whole.x.shape[1], int(whole.y.max()) + 1)
    values = _values(plan, kind, epsilon)
    return World(
        name=name,
        family=family,
        sites=Sites.of(_dealt(train, sites, alpha, random)),
        golden=golden,
        test=test,
        plan=_plan(values, epsilon, rounds, golden),
        trigger=_trigger(train, random),
        alpha=alpha,
        epsilon=epsilon,
        seed=seed,
        momentum=values.server_momentum,
    )


def _rows(name: str) -> Split:
    if name == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        return Split((x / 16).astype(np.float32), y.astype(np.int64))
    data = datasets.load(name)
    parts = (data.golden, data.test, data.shared)
    return Split(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]))


def _values(plan: str, model: str, epsilon: float | None) -> PlanDefaults:
    if plan not in PLANS:
        raise KeyError(plan)
    return DEFAULTS if plan == "demo" or epsilon is None else defaults_for(model, epsilon)


def _plan(values: PlanDefaults, epsilon: float | None, rounds: int, golden: Split) -> Plan:
    if epsilon is None:
        return Plan(steps=4, learning_rate=0.5, sample_rate=0.5)
    steps = values.local_steps
    return Plan(
        steps=steps,
        learning_rate=values.learning_rate,
        sample_rate=values.sample_rate,
        clip_norm=values.clip_norm,
        noise_multiplier=noise_multiplier(
            epsilon, values.delta, values.sample_rate, steps * rounds
        ),
        centre=tuple(golden.x.mean(axis=0, dtype=float).tolist()) if values.centred else (),
    )


def _dealt(
    rows: Split, sites: int, alpha: float | None, random: np.random.Generator
) -> list[Split]:
    """Deals every row to one site; by class in Dirichlet shares (Hsu, Qi, Brown 2019) or evenly.

    Sites with fewer than eight rows get some of the largest one's: nobody could train on less.
    """
    if len(rows) < sites * _ROWS_MIN:
        raise ValueError(f"{len(rows)} rows are too few for {sites} sites")
    if alpha is None:
        parts = np.array_split(random.permutation(len(rows)), sites)
        return [rows.take(part) for part in parts]
    dealt: list[list[int]] = [[] for _ in range(sites)]
    for label in np.unique(rows.y):
        of_class = random.permutation(np.flatnonzero(rows.y == label))
        shares = np.cumsum(random.dirichlet(np.full(sites, alpha)))[:-1]
        for site, part in enumerate(
            np.split(of_class, np.round(shares * len(of_class)).astype(int))
        ):
            dealt[site] += part.tolist()
    while len(poorest := min(dealt, key=len)) < _ROWS_MIN:
        richest = max(dealt, key=len)
        poorest.append(richest.pop(int(random.integers(len(richest)))))
    return [rows.take(np.array(part)) for part in dealt]


def _trigger(rows: Split, random: np.random.Generator) -> Trigger:
    """Draws a trigger as an attacker would choose it: values that rows hardly ever have.

    Three of the half of the features that are farthest from their extreme, and one of the classes
    whose rows are farthest from the trigger, so that it does not lead there by itself.
    """
    low, high = rows.x.min(axis=0), rows.x.max(axis=0)
    mean = rows.x.mean(axis=0)
    extreme = np.where(high - mean > mean - low, rows.x.max(), rows.x.min()).astype(np.float32)
    rare = np.argsort(-np.abs(mean - extreme), kind="stable")[: max(3, len(mean) // 2)]
    features = np.sort(random.choice(rare, _TRIGGER_FEATURES, replace=False))
    labels = np.unique(rows.y)
    distance = [
        np.abs(rows.x[rows.y == label][:, features] - extreme[features]).mean() for label in labels
    ]
    far = labels[np.argsort(distance, kind="stable")][-max(1, len(labels) // 2) :]
    return Trigger(features, extreme[features], int(random.choice(far)))
