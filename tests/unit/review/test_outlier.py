"""Arithmetic of the outlier examiner."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from aegis_server.review.examiners.outlier import examine, medians_of_others, robust_z
from aegis_server.review.findings import Severity


def updates(*rows: list[float]) -> list[dict[str, np.ndarray]]:
    return [{"w": np.array(row, np.float32)} for row in rows]


def measured(found: list, measure: str) -> list[float]:
    return [next(f.value for f in each if f.measure == measure) for each in found]


@given(
    st_numpy.arrays(
        np.float64,
        st.tuples(st.integers(2, 9), st.integers(1, 4)),
        elements=st.floats(-1e6, 1e6),
    )
)
def test_medians_of_others_equal_numpys_without_the_row(values: np.ndarray):
    """The one-sort form gives what deleting each row gives."""
    expected = [np.median(np.delete(values, i, axis=0), axis=0) for i in range(len(values))]
    np.testing.assert_allclose(medians_of_others(values), expected)


def test_robust_z_holds_a_value_against_the_others():
    """(5 - median(1, 2, 3)) over 1.4826 times their median deviation of 1."""
    z = robust_z(np.array([1.0, 2.0, 3.0, 5.0]), 0.1)
    assert z[3] == pytest.approx(3 / 1.4826)


def test_equal_peers_do_not_make_a_small_difference_infinite():
    """Among few values the deviation is zero by chance; a floor stands in for it."""
    assert robust_z(np.array([1.0, 1.0, 1.0, 1.1]), 0.2)[3] == pytest.approx(0.5)


def test_length_is_compared_after_correction_for_examples():
    """A site with a quarter of the rows adds four times the noise, and is not an outlier."""
    random = np.random.default_rng(0)
    rows = [200, 200, 200, 200, 50]
    noisy = [{"w": (random.normal(size=400) / n).astype(np.float32)} for n in rows]
    corrected = measured(examine(noisy, rows), "norm_z")
    blind = measured(examine(noisy, [0] * 5), "norm_z")
    assert corrected[4] < 1
    assert blind[4] > 4


def test_equal_lengths_of_unequal_sites_are_ordinary():
    """Without much noise, lengths do not depend on the rows, and the round shows it."""
    random = np.random.default_rng(0)
    rows = [20, 60, 120, 200, 400]
    signal = [random.normal(size=400) for _ in rows]
    found = examine([{"w": (s / np.linalg.norm(s)).astype(np.float32)} for s in signal], rows)
    assert max(measured(found, "norm_z")) < 1


def test_opposite_direction_shows_in_cosine_and_signs():
    """Minus the others' direction has cosine -1 to them, and none of their signs."""
    found = examine(updates([1, 2, 3], [1.1, 2, 3], [1, 2.1, 3], [-1, -2, -3]), [10] * 4)
    assert measured(found, "cosine_to_median")[3] == pytest.approx(-1, abs=0.01)
    assert measured(found, "sign_agreement")[3] == 0
    against = {f.measure: f.severity for f in found[3]}
    # Enough to support another examiner, never to reject alone.
    assert against["cosine_to_median"] is Severity.WARNING
    assert against["sign_agreement"] is Severity.WARNING


def test_copies_are_critical_for_both():
    """Largest pairwise cosine of one: one of them copied."""
    found = examine(updates([1, 2, 3], [2, 4, 6], [3, -1, 0.5]), [10] * 3)
    twins = [next(f for f in each if f.measure == "largest_cosine") for each in found]
    assert [f.severity for f in twins] == [Severity.CRITICAL, Severity.CRITICAL, Severity.INFO]


def test_layer_that_stands_out_is_named():
    """A backdoor often lives in one layer: the finding says which."""
    random = np.random.default_rng(3)
    layers = [{"a": random.normal(size=200), "b": random.normal(size=200)} for _ in range(5)]
    layers[4]["b"] = 6 * layers[4]["b"]
    found = examine(
        [{n: v.astype(np.float32) for n, v in each.items()} for each in layers], [50] * 5
    )
    finding = next(f for f in found[4] if f.measure == "layer_norm_z")
    assert "is b:" in finding.text
    assert finding.severity is Severity.WARNING


def test_update_without_peers_has_no_finding():
    """There is nothing to be an outlier of."""
    assert examine(updates([1, 2]), [10]) == [[]]


def test_blocks_of_columns_give_the_same_directions(monkeypatch: pytest.MonkeyPatch):
    """Large updates are worked on block by block; the sums must not notice."""
    random = np.random.default_rng(5)
    many = [{"w": random.normal(size=1000).astype(np.float32)} for _ in range(4)]
    whole = examine(many, [10] * 4)
    monkeypatch.setattr("aegis_server.review.examiners.outlier._BLOCK", 7)
    for left, right in zip(whole, examine(many, [10] * 4), strict=True):
        for a, b in zip(left, right, strict=True):
            assert a.value == pytest.approx(b.value)
