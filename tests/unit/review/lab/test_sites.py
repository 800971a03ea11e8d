"""All sites of a round train at once, and each as a participant would alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aegis_learning import models, parameters
from aegis_learning.parameters import flatten
from aegis_learning.rows import Split
from aegis_participant.randomness import KeyStream
from aegis_participant.training import Task
from aegis_participant.training import train as train_alone
from aegis_server.review.lab.sites import Plan, Sites, train

FAMILY = models.family("mlp-5-4", 6, 3)


def _splits(*sizes: int) -> list[Split]:
    random = np.random.default_rng(1)
    return [
        Split(random.normal(size=(n, 6)).astype(np.float32), random.integers(0, 3, n))
        for n in sizes
    ]


def test_each_site_trains_as_a_participant_does():
    """The same clipped steps as Opacus on every row, whatever the other sites have."""
    splits, base = _splits(7, 12, 9), FAMILY.initial(1)
    plan = Plan(steps=3, learning_rate=0.7, sample_rate=1.0, clip_norm=0.5)
    together = train(FAMILY, base, Sites.of(splits), plan, np.random.default_rng(1))
    task = Task(FAMILY, 3, learning_rate=0.7, sample_rate=1.0, clip_norm=0.5, noise_multiplier=0.0)
    for update, split in zip(together, splits, strict=True):
        alone = train_alone(task, base, split, KeyStream.seeded(1, 1, 1, 1)).delta
        np.testing.assert_allclose(update, flatten(alone), atol=1e-5)


def test_site_trains_around_a_centre_as_a_participant_does():
    """One step over all rows less the centre, and the update is that for rows as they are."""
    splits, base, centre = _splits(7, 12), FAMILY.initial(1), (0.4, -1.0, 0.2, 0.0, 2.0, 0.7)
    plan = Plan(1, learning_rate=7.5, sample_rate=1.0, clip_norm=0.2, centre=centre)
    together = train(FAMILY, base, Sites.of(splits), plan, np.random.default_rng(1))
    around = replace(plan, centre=())
    elsewhere = train(FAMILY, base, Sites.of(splits), around, np.random.default_rng(1))
    assert np.abs(together - elsewhere).max() > 0.1
    task = Task(FAMILY, 1, 7.5, 1.0, clip_norm=0.2, noise_multiplier=0.0, centre=centre)
    for update, split in zip(together, splits, strict=True):
        alone = train_alone(task, base, split, KeyStream.seeded(1, 1, 1, 1)).delta
        np.testing.assert_allclose(update, flatten(alone), atol=1e-5)


def test_no_row_moves_a_site_by_more_than_the_clip_norm():
    """One step without noise: rate times clip norm for each expected row, at most."""
    split = _splits(10)[0]
    with_row, without = Sites.of([split]), Sites.of([split.take(np.arange(9))])
    plan = Plan(steps=1, learning_rate=1.0, sample_rate=1.0, clip_norm=0.01)
    updates = [
        train(FAMILY, FAMILY.initial(1), sites, plan, np.random.default_rng(1))[0] * rows
        for sites, rows in ((with_row, 10), (without, 9))
    ]
    assert np.linalg.norm(updates[0] - updates[1]) == pytest.approx(0.01, rel=1e-3)


def test_noise_is_as_large_as_the_plan_says():
    """The deviation the review is told, by rows of the site."""
    splits, base = _splits(20, 80), models.family("mlp-64", 6, 3).initial(1)
    family, sites = models.family("mlp-64", 6, 3), Sites.of(splits)
    # So small a rate that the path is the same with noise and without.
    noisy = Plan(4, learning_rate=1e-4, sample_rate=0.5, clip_norm=1.0, noise_multiplier=3.0)
    plain = Plan(4, learning_rate=1e-4, sample_rate=0.5, clip_norm=1.0)
    updates = [
        train(family, base, sites, plan, np.random.default_rng(2)) for plan in (noisy, plain)
    ]
    found = (updates[0] - updates[1]).astype(np.float64).std(axis=1)
    np.testing.assert_allclose(found, noisy.noise(sites.rows), rtol=0.1)
    assert noisy.noise(sites.rows)[0] == pytest.approx(4 * noisy.noise(sites.rows)[1])
    assert plain.noise(sites.rows).tolist() == [0, 0]


def test_without_privacy_training_is_plain_gradient_descent():
    """On all rows it is the step the review repeats on its own."""
    from aegis_learning.gradients import descend

    split, base = _splits(15)[0], FAMILY.initial(3)
    plan = Plan(steps=4, learning_rate=0.5, sample_rate=1.0)
    update = train(FAMILY, base, Sites.of([split]), plan, np.random.default_rng(1))[0]
    after = descend(FAMILY, base, split, steps=4, learning_rate=0.5)
    np.testing.assert_allclose(update, flatten(parameters.subtract(after, base)), atol=1e-5)


def test_sites_come_back_as_they_were_given():
    """Padding is nobody's row."""
    splits = _splits(3, 8)
    sites = Sites.of(splits).take(np.array([1, 0]))
    for site, split in ((0, splits[1]), (1, splits[0])):
        assert (sites.split(site).x == split.x).all()
        assert (sites.split(site).y == split.y).all()
