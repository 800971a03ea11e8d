"""The mean that hides any one participant: its bound, its noise, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as draws
from scipy import stats

from aegis_learning.aggregation.private_mean import PrivateMean, clip_factors, clipped
from aegis_learning.aggregation.refusals import AssumptionBroken, NotFinite
from aegis_learning.aggregation.updates import Updates
from aegis_participant.randomness import KeyStream

NUMBERS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
MATRICES = draws.arrays(
    np.float32, st.tuples(st.integers(2, 6), st.integers(1, 40)), elements=NUMBERS
)
NORMS = st.floats(1e-3, 1e3)


def _silent(count: int) -> np.ndarray:
    return np.zeros(count)


def _mean(rows: np.ndarray, clip_norm: float, noise=_silent) -> np.ndarray:
    rule = PrivateMean(clip_norm=clip_norm, noise_multiplier=1.5, noise=noise)
    return rule.aggregate(Updates.of(rows)).update


def _sum(rows: np.ndarray, clip_norm: float) -> np.ndarray:
    return _mean(rows, clip_norm).astype(np.float64) * len(rows)


@given(MATRICES, NORMS)
@settings(deadline=None)
def test_no_clipped_update_is_longer_than_the_clip_norm(rows: np.ndarray, clip_norm: float) -> None:
    """Not even by rounding; and who is shorter is not touched."""
    updates = Updates.of(rows)
    factors = updates.as_given(clip_factors(updates, clip_norm))
    for row, factor in zip(rows, factors, strict=True):
        length = np.linalg.norm(clipped(row, factor).astype(np.float64))
        assert length <= clip_norm
        if np.linalg.norm(row.astype(np.float64)) <= clip_norm * (1 - 1e-6):
            assert factor == 1


@given(MATRICES, NORMS, st.data())
@settings(deadline=None)
def test_one_participant_moves_the_sum_by_the_clip_norm_at_most(
    rows: np.ndarray, clip_norm: float, data: st.DataObject
) -> None:
    """With its rows or with none; with other rows it is twice that, which the ledger counts."""
    who = data.draw(st.integers(0, len(rows) - 1))
    without, other = rows.copy(), rows.copy()
    without[who] = 0
    other[who] = data.draw(draws.arrays(np.float32, rows.shape[1], elements=NUMBERS))
    # The mean is rounded to float32 once, after the noise.
    slack = 1e-6 * len(rows) * clip_norm
    assert np.linalg.norm(_sum(rows, clip_norm) - _sum(without, clip_norm)) <= clip_norm + slack
    assert np.linalg.norm(_sum(rows, clip_norm) - _sum(other, clip_norm)) <= 2 * clip_norm + slack


@given(MATRICES, NORMS)
@settings(deadline=None)
def test_mean_is_that_of_the_paper(rows: np.ndarray, clip_norm: float) -> None:
    """Scale each by min(1, C/‖u‖), add, divide; whatever they weigh, they count the same."""
    wide = rows.astype(np.float64)
    scale = [min(1.0, clip_norm / max(np.linalg.norm(row), 1e-300)) for row in wide]
    slow = sum(row * factor for row, factor in zip(wide, scale, strict=True)) / len(rows)
    assert np.allclose(_mean(rows, clip_norm), slow, atol=1e-5 * clip_norm)
    weighed = PrivateMean(clip_norm=clip_norm, noise_multiplier=1, noise=_silent).aggregate(
        Updates.of(rows, [float(10**index) for index in range(len(rows))])
    )
    assert weighed.shares == (1 / len(rows),) * len(rows)
    assert np.allclose(weighed.update, slow, atol=1e-5 * clip_norm)


def test_order_of_answers_changes_nothing() -> None:
    """Bit for bit, under the same noise."""
    rows = np.random.default_rng(3).normal(size=(5, 200_000)).astype(np.float32)

    def made(order: list[int]) -> bytes:
        stream = KeyStream.seeded(1)
        return _mean(rows[order], 1.0, lambda count: stream.normal((count,))).tobytes()

    assert made([0, 1, 2, 3, 4]) == made([3, 1, 4, 0, 2])


def test_noise_is_gaussian_with_the_promised_deviation() -> None:
    """z·C/m in every coordinate, independent of its neighbour."""
    stream = KeyStream.seeded(7)
    rows = np.random.default_rng(1).normal(size=(4, 200_000)).astype(np.float32)
    noisy = _mean(rows, 2.0, lambda count: stream.normal((count,)))
    noise = (noisy - _mean(rows, 2.0)).astype(np.float64) * len(rows) / (1.5 * 2.0)
    assert abs(noise.std() - 1) < 0.005
    assert stats.kstest(noise, "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.01


def test_secret_noise_is_never_the_same() -> None:
    """Nobody can subtract what nobody can repeat."""
    rows = np.ones((3, 50), np.float32)
    stream = KeyStream.secret()
    first, second = (_mean(rows, 1.0, lambda count: stream.normal((count,))) for _ in range(2))
    assert not np.isclose(first, second).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_update_that_is_not_finite_is_named(bad: float) -> None:
    """It would be everywhere in the sum."""
    rows = np.ones((3, 10), np.float32)
    rows[1, 4] = bad
    with pytest.raises(NotFinite) as refused:
        _mean(rows, 1.0)
    assert refused.value.update == 1


def test_largest_numbers_of_float32_are_clipped_like_others() -> None:
    """Their squares overflow float32 and not what the norm is computed in."""
    rows = np.full((2, 100), np.finfo(np.float32).max, np.float32)
    assert np.linalg.norm(_mean(rows, 1.0)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, np.nan, np.inf])
def test_clip_norm_that_bounds_nothing_is_refused(clip_norm: float) -> None:
    """Without a bound no noise hides anybody."""
    with pytest.raises(AssumptionBroken, match="update_clip_norm"):
        PrivateMean(clip_norm=clip_norm, noise_multiplier=1.0, noise=_silent)


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, np.nan, np.inf])
def test_noise_that_is_none_is_refused(noise_multiplier: float) -> None:
    """A mean that promises nothing has another name."""
    with pytest.raises(AssumptionBroken, match="noise_multiplier"):
        PrivateMean(clip_norm=1.0, noise_multiplier=noise_multiplier, noise=_silent)
