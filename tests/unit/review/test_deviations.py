"""Arithmetic of deviations within a round."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from aegis_server.review.deviations import above_others, medians_of_others, ratio, robust_z

TABLES = st_numpy.arrays(
    np.float64,
    st.tuples(st.integers(2, 9), st.integers(1, 4)),
    elements=st.floats(-1e6, 1e6),
)


@given(TABLES)
def test_medians_of_others_equal_numpys_without_the_row(values: np.ndarray):
    """The one-sort form gives what deleting each row gives."""
    expected = [np.median(np.delete(values, i, axis=0), axis=0) for i in range(len(values))]
    np.testing.assert_allclose(medians_of_others(values), expected)


@given(TABLES, st.data())
def test_only_members_are_what_a_value_is_held_against(values: np.ndarray, data: st.DataObject):
    """What numpy gives for the members without the row; nothing where there are none."""
    n = len(values)
    members = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    expected = []
    for i in range(n):
        others = values[members & (np.arange(n) != i)]
        expected.append(values[i] - (np.median(others, axis=0) if len(others) else 0))
    np.testing.assert_allclose(above_others(values, members), expected)


def test_robust_z_holds_a_value_against_the_others():
    """(5 - median(1, 2, 3)) over 1.4826 times their median deviation of 1."""
    z = robust_z(np.array([1.0, 2.0, 3.0, 5.0]), 0.1)
    assert z[3] == pytest.approx(3 / 1.4826)


def test_equal_peers_do_not_make_a_small_difference_infinite():
    """Among few values the deviation is zero by chance; a floor stands in for it."""
    assert robust_z(np.array([1.0, 1.0, 1.0, 1.1]), 0.2)[3] == pytest.approx(0.5)


def test_outsiders_do_not_pull_the_middle():
    """Three far values that are no members leave the others as they are."""
    values = np.array([0.9, 1.0, 1.1, 1.2, 50.0, 50.0, 50.0])
    members = np.array([True] * 4 + [False] * 3)
    np.testing.assert_allclose(
        robust_z(values, 0.1, members)[:4], robust_z(values[:4], 0.1), rtol=1e-12
    )


def test_lonely_value_has_no_deviation():
    """There is nobody to be held against."""
    assert robust_z(np.array([3.0]), 0.1).tolist() == [0.0]


def test_ratio_of_nothing_is_zero():
    """An update of zeros is orthogonal to everything."""
    assert ratio(np.array([1.0, 2.0]), np.array([0.0, 4.0])).tolist() == [0.0, 0.5]
