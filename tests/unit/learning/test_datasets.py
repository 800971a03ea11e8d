"""Data sets: fixed splits, public bounds, and shares that can be trained on."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_learning import datasets, models, scores

DATA = datasets.load("breast-cancer")


def test_splits_are_disjoint_and_cover_the_data_set() -> None:
    """569 distinct rows, each in exactly one split."""
    rows = np.concatenate([DATA.shared.x, DATA.golden.x, DATA.test.x])
    assert 569 == len(rows) == len(np.unique(rows, axis=0))
    assert (len(DATA.golden), len(DATA.test)) == (64, 114)


def test_every_split_has_the_classes_in_the_same_proportion() -> None:
    """62.7 % benign, give or take a row."""
    for split in (DATA.shared, DATA.golden, DATA.test):
        assert abs(split.y.mean() - 357 / 569) < 1 / len(split)


def test_features_lie_within_the_published_bounds() -> None:
    """Bounds come from the description, so scaling tells nothing of any row."""
    assert DATA.shared.x.min() == -1.0
    assert DATA.shared.x.max() == 1.0


@pytest.mark.parametrize("alpha", [0.05, 1.0, 100.0])
def test_partition_gives_every_row_to_one_site_and_both_classes_to_each(alpha: float) -> None:
    """However uneven, nobody is left with one class or a handful of rows."""
    for seed in range(20):
        sites = datasets.partition(DATA.shared, 5, alpha, seed)
        rows = np.concatenate([site.x for site in sites])
        assert len(DATA.shared) == len(rows) == len(np.unique(rows, axis=0))
        assert all(len(site) >= 18 and set(np.unique(site.y)) == {0, 1} for site in sites)


def test_small_alpha_makes_sites_differ_and_a_seed_repeats_them() -> None:
    """Alpha is the concentration of the label split."""
    mixed = datasets.partition(DATA.shared, 5, 1000.0, 1)
    skewed = datasets.partition(DATA.shared, 5, 0.1, 1)
    spread = [np.std([site.y.mean() for site in sites]) for sites in (mixed, skewed)]
    assert spread[0] < 0.03 < 0.1 < spread[1]
    again = datasets.partition(DATA.shared, 5, 0.1, 1)
    assert all(np.array_equal(a.x, b.x) for a, b in zip(skewed, again, strict=True))


def test_more_sites_than_rows_is_refused() -> None:
    """Two rows of each class a site is the least."""
    with pytest.raises(ValueError, match="too few rows"):
        datasets.partition(DATA.shared, 100, 1.0, 0)


def test_unknown_names_are_refused() -> None:
    """There are no defaults for data sets and models."""
    with pytest.raises(datasets.UnknownDataset):
        datasets.load("mnist")
    with pytest.raises(models.UnknownModel):
        models.family("gpt", 30, 2)


@pytest.mark.parametrize("name", ["mlp", "logistic"])
def test_numpy_and_torch_give_the_same_answers(name: str) -> None:
    """The review judges with numpy what sites train with torch."""
    import torch

    family = models.family(name, 30, 2)
    params = family.initial(5)
    module = family.torch_module()
    module.load_state_dict({key: torch.tensor(value) for key, value in params.items()})
    with torch.no_grad():
        theirs = module(torch.from_numpy(DATA.test.x)).numpy()
    assert np.allclose(theirs, family.logits(params, DATA.test.x), atol=1e-5)


def test_scores_of_a_perfect_and_a_blind_model() -> None:
    """Known answers: certainty, a coin, and a class nobody found."""
    y = np.array([0, 1, 1])
    sure = np.array([[9, -9], [-9, 9], [-9, 9]], np.float32)
    blind = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    assert scores.accuracy(sure, y) == 1.0
    assert scores.log_loss(sure, y) < 1e-6
    assert pytest.approx(np.log(2)) == scores.log_loss(np.zeros((3, 2), np.float32), y)
    assert scores.recall_by_class(blind, y).tolist() == [1.0, 0.0]
