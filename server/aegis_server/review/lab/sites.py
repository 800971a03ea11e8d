"""All sites of a round train at once: one array with a leading axis for the site.

The same DP-SGD as `aegis_participant.training` (Abadi et al. 2016): Poisson samples, gradients of
rows clipped by ghost clipping, Gaussian noise on their sum, divided by the expected sample. Noise
comes from numpy's generator and not from a key stream: nobody's rows are protected here.

n sites, r rows of the largest, f features, c classes, d parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aegis_learning.models import Family
from aegis_learning.parameters import Array, Parameters
from aegis_learning.rows import Split

_TINY = 1e-6


@dataclass(frozen=True, slots=True)
class Plan:
    """How sites train in a round, as in `aegis_participant.training.Task`.

    Without a finite `clip_norm` it is plain SGD, on the mean of what was drawn. `centre` is the row
    that sites train around, none when rows stay as they are.
    """

    steps: int
    learning_rate: float
    sample_rate: float
    clip_norm: float = math.inf
    noise_multiplier: float = 0.0
    centre: tuple[float, ...] = ()

    @property
    def private(self) -> bool:
        """Whether sites clip."""
        return math.isfinite(self.clip_norm)

    def noise(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns the least deviation of the noise in a number of an update, by the site's rows.

        Around a centre the first layer's biases have more than the other numbers.
        """
        if not self.noise_multiplier:
            return np.zeros(len(rows))
        per_step = self.noise_multiplier * self.clip_norm / (self.sample_rate * rows)
        deviation: NDArray[np.float64] = self.learning_rate * np.sqrt(self.steps) * per_step
        return deviation


@dataclass(frozen=True, slots=True)
class Sites:
    """Rows of n sites: x of (n, r, f) and y of (n, r), filled up with zeros; `rows` of (n,)."""

    x: Array
    y: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, splits: Sequence[Split]) -> Sites:
        """Returns the rows of these sites."""
        rows = np.array([len(split) for split in splits])
        x = np.zeros((len(splits), rows.max(), splits[0].x.shape[1]), np.float32)
        y = np.zeros((len(splits), rows.max()), np.int64)
        for site, split in enumerate(splits):
            x[site, : len(split)], y[site, : len(split)] = split.x, split.y
        return cls(x, y, rows)

    def take(self, sites: NDArray[np.int64]) -> Sites:
        """Returns these sites, in this order."""
        most = self.rows[sites].max()
        return Sites(self.x[sites, :most], self.y[sites, :most], self.rows[sites])

    def split(self, site: int) -> Split:
        """Returns one site's rows."""
        count = self.rows[site]
        return Split(self.x[site, :count], self.y[site, :count])


def train(
    family: Family, base: Parameters, sites: Sites, plan: Plan, random: np.random.Generator
) -> Array:
    """Returns the updates of all sites, shape (n, d), numbers in order of `parameters.flatten`."""
    n = len(sites.rows)
    centre = np.array(plan.centre)
    begin = family.moved(base, centre) if plan.centre else base
    if plan.centre:
        sites = replace(sites, x=(sites.x - centre).astype(np.float32))
    model = {name: np.repeat(values[None], n, axis=0) for name, values in begin.items()}
    for _ in range(plan.steps):
        x, y, drawn = _sample(sites, plan.sample_rate, random)
        for name, change in _step(family, model, x, y, drawn, sites.rows, plan, random).items():
            model[name] -= change
    if plan.centre:
        model = family.moved(model, -centre)
    moved = [(model[name] - base[name]).reshape(n, -1) for name in sorted(base)]
    return np.concatenate(moved, axis=1)


def _sample(
    sites: Sites, rate: float, random: np.random.Generator
) -> tuple[Array, NDArray[np.int64], NDArray[np.bool_]]:
    """Returns a Poisson sample of each site's rows, and which of the places are taken."""
    there = np.arange(sites.y.shape[1]) < sites.rows[:, None]
    chosen = there & (random.random(sites.y.shape) < rate)
    # The drawn to the front, so that no site computes more than the fullest sample needs.
    order = np.argsort(~chosen, axis=1, kind="stable")[:, : max(1, chosen.sum(axis=1).max())]
    x = np.take_along_axis(sites.x, order[:, :, None], axis=1)
    y = np.take_along_axis(sites.y, order, axis=1)
    return x, y, np.take_along_axis(chosen, order, axis=1)


def _step(
    family: Family,
    model: Parameters,
    x: Array,
    y: NDArray[np.int64],
    drawn: NDArray[np.bool_],
    rows: NDArray[np.int64],
    plan: Plan,
    random: np.random.Generator,
) -> Parameters:
    """Returns what a step takes from each parameter, shape (n, ...)."""
    inputs, slopes = _slopes(family, model, x, y)
    factors = drawn.astype(np.float32)
    if plan.private:
        factors *= np.minimum(1.0, plan.clip_norm / (_norms(inputs, slopes) + _TINY))
        share = 1 / (plan.sample_rate * rows)
    else:
        share = 1 / np.maximum(1, drawn.sum(axis=1))
    deviation = plan.noise_multiplier * plan.clip_norm if plan.noise_multiplier else 0.0
    change: Parameters = {}
    for layer, (given, slope) in enumerate(zip(inputs, slopes, strict=True), 1):
        kept = slope * factors[:, :, None]
        sums = {"weight": kept.transpose(0, 2, 1) @ given, "bias": kept.sum(axis=1)}
        for kind, total in sums.items():
            if deviation:
                total = total + deviation * random.standard_normal(total.shape, np.float32)
            scale = (plan.learning_rate * share).reshape(-1, *[1] * (total.ndim - 1))
            change[f"layer{layer}.{kind}"] = (scale * total).astype(np.float32)
    return change


def _slopes(
    family: Family, model: Parameters, x: Array, y: NDArray[np.int64]
) -> tuple[list[Array], list[Array]]:
    """Returns each layer's input and each row's slope of the loss at the layer's output."""
    last = len(family.widths) - 1
    inputs, activation = [], x
    for layer in range(1, last + 1):
        inputs.append(activation)
        weight, bias = model[f"layer{layer}.weight"], model[f"layer{layer}.bias"]
        activation = activation @ weight.transpose(0, 2, 1) + bias[:, None, :]
        if layer < last:
            activation = np.tanh(activation)
    # A poisoned model may have run away; its softmax must stay a number.
    activation = np.nan_to_num(activation, posinf=1e30, neginf=-1e30)
    exp = np.exp(activation - activation.max(axis=2, keepdims=True))
    slope = exp / exp.sum(axis=2, keepdims=True)
    slope -= y[:, :, None] == np.arange(family.classes)
    slopes = [slope]
    for layer in range(last, 1, -1):
        slope = (slope @ model[f"layer{layer}.weight"]) * (1 - inputs[layer - 1] ** 2)
        slopes.insert(0, slope)
    return inputs, slopes


def _norms(inputs: Sequence[Array], slopes: Sequence[Array]) -> Array:
    """Returns the norm of each row's gradient, shape (n, rows): never the gradient itself."""
    squares = sum(
        ((given**2).sum(axis=2) + 1) * (slope**2).sum(axis=2)
        for given, slope in zip(inputs, slopes, strict=True)
    )
    return np.sqrt(np.asarray(squares, np.float32))
