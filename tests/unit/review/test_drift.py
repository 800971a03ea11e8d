"""Drift as arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_server.review.standing.drift import drift


def history(seed: int, shift: float) -> list[dict[str, float]]:
    """Twenty rounds of 25 ordinary features, and five in which the first has moved."""
    random = np.random.default_rng(seed)
    table = random.normal(0, 1, (25, 25))
    table[20:, 0] += shift
    return [{f"f{at}": value for at, value in enumerate(row)} for row in table.tolist()]


def test_site_that_stays_as_it_is_has_hardly_any_drift():
    """In a hundred honest histories the drift is far from what is called one."""
    found = [drift(history(seed, 0)) for seed in range(100)]
    assert np.median(found) < 1
    assert max(found) < 4


def test_site_whose_updates_changed_has_drift():
    """One feature of 25 that moved by five deviations is seen in five rounds."""
    assert min(drift(history(seed, 5)) for seed in range(20)) > 4


def test_larger_change_is_never_a_smaller_drift():
    """The figure can be compared between sites."""
    found = [drift(history(1, shift)) for shift in (4, 6, 8)]
    assert found == sorted(found)


@pytest.mark.parametrize("number", [0, 1, 9])
def test_too_few_updates_have_no_drift(number: int):
    """Without a past of its own nobody has left it."""
    assert drift(history(1, 9)[:number]) == 0


def test_only_features_that_all_updates_have_are_compared():
    """A detector with new features does not make everybody drift."""
    older, newer = history(1, 0), [each | {"new": 9.0} for each in history(1, 0)[20:]]
    assert drift([*older[:20], *newer]) == drift(older)
    assert drift([*({"a": 1.0} for _ in range(9)), {"b": 1.0}]) == 0


def test_feature_that_never_moved_is_no_yardstick():
    """The first time a constant feature moves a little is not a thousand deviations."""
    still = [{"twin": 0.0}] * 20
    assert drift([*still, *[{"twin": 0.1}] * 5]) == 0
    assert drift([*still, *[{"twin": 3.0}] * 5]) > 5


def test_sums_over_a_run_are_not_compared():
    """They begin anew with every run, and grow whatever the site does."""
    found = history(1, 0)
    summed = [{**each, "run/weight": 100.0 * at} for at, each in enumerate(found)]
    assert drift(summed) == drift(found)
