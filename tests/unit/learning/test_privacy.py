"""The accountant: equal to Opacus, additive, and its noise keeps the promise."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_learning import privacy


@pytest.mark.filterwarnings("ignore:Optimal order")
@pytest.mark.parametrize(
    ("sigma", "q", "steps", "delta"),
    [
        (0.8, 0.2, 30, 1e-3),
        (3.4, 0.2, 30, 1e-3),
        (0.3, 0.5, 60, 1e-3),
        (0.78, 0.01, 5000, 1e-5),
        (1.0, 1.0, 10, 1e-5),
    ],
)
def test_epsilon_equals_opacus_to_four_decimals(
    sigma: float, q: float, steps: int, delta: float
) -> None:
    """Our quadrature and Opacus' series are the same accountant."""
    from opacus.accountants import RDPAccountant

    theirs = RDPAccountant()
    theirs.history = [(sigma, q, steps)]
    assert theirs.get_epsilon(delta=delta) == pytest.approx(
        privacy.epsilon(sigma, q, steps, delta), abs=5e-5
    )


def test_noise_multiplier_keeps_the_target_and_wastes_little_of_it() -> None:
    """The noise found costs at most the target, and nearly all of it."""
    for target in (0.5, 2.0, 8.0):
        sigma = privacy.noise_multiplier(target, 1e-3, 0.3, 60)
        spent = privacy.epsilon(sigma, 0.3, 60, 1e-3)
        assert 0.995 * target < spent <= target


def test_target_that_no_noise_can_keep_is_refused() -> None:
    """Asking for next to nothing is an error, not a very large number."""
    with pytest.raises(ValueError, match="no noise"):
        privacy.noise_multiplier(1e-6, 1e-9, 1.0, 10_000)


def test_costs_of_two_runs_add_up() -> None:
    """Composition is addition of vectors, and less than the sum of the epsilons."""
    both = privacy.rdp(1.4, 0.3, 60) + privacy.rdp(2.0, 0.1, 30)
    one, other = privacy.epsilon(1.4, 0.3, 60, 1e-3), privacy.epsilon(2.0, 0.1, 30, 1e-3)
    assert max(one, other) < privacy.epsilon_of(both, 1e-3) < one + other


def test_nothing_spent_is_epsilon_zero() -> None:
    """A run that never trained cost nothing."""
    assert privacy.epsilon(1.0, 0.3, 0, 1e-3) == 0.0


@pytest.mark.parametrize(
    ("sigma", "q", "steps"), [(0.0, 0.3, 1), (1.0, 0.0, 1), (1.0, 1.1, 1), (np.nan, 0.3, 1)]
)
def test_meaningless_mechanisms_are_refused(sigma: float, q: float, steps: int) -> None:
    """No noise, no sampling or NaN have no epsilon."""
    with pytest.raises(ValueError, match="needed"):
        privacy.rdp(sigma, q, steps)


@pytest.mark.parametrize("delta", [np.nan, -1e-3, 0.0, 1.0])
def test_meaningless_delta_is_refused(delta: float) -> None:
    """An epsilon of nothing must not come out as no epsilon."""
    with pytest.raises(ValueError, match="needed"):
        privacy.epsilon(1.4, 0.3, 60, delta)
