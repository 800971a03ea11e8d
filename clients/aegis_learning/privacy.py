"""Renyi differential privacy of DP-SGD: what a run costs, and how much noise a budget asks for.

A step is one subsampled Gaussian mechanism: Poisson sampling with rate q, noise with standard
deviation noise_multiplier times the clip norm (Mironov, Talwar, Zhang 2019, "Renyi Differential
Privacy of the Sampled Gaussian Mechanism"). Costs at one order add up over steps, rounds and
runs; `epsilon_of` turns the sum into (epsilon, delta) (Canonne, Kamath, Steinke 2020, prop. 12).
Equal to Opacus' accountant to four decimals, and fast enough to ask before every run.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# The orders of Opacus, so that both give the same numbers.
ORDERS: NDArray[np.float64] = np.concatenate([1 + np.arange(1, 100) / 10, np.arange(12.0, 64.0)])
_LOG_TAIL = 80.0
NOISE_MAX = 1_000.0


def rdp(noise_multiplier: float, sample_rate: float, steps: int) -> NDArray[np.float64]:
    """Returns the cost of `steps` steps at each order of `ORDERS`; costs of runs may be added."""
    if not (noise_multiplier > 0 and 0 < sample_rate <= 1 and steps >= 0):
        raise ValueError("noise_multiplier > 0, 0 < sample_rate <= 1 and steps >= 0 are needed")
    return steps * _step(noise_multiplier, sample_rate)


# A data set at many participants sees many kinds of steps; one entry is 1.2 KB.
@lru_cache(maxsize=4096)
def _step(sigma: float, q: float) -> NDArray[np.float64]:
    if q == 1:
        return ORDERS / (2 * sigma**2)
    # A(alpha) = E_z[((1-q) + q exp((2z-1) / 2 sigma^2))^alpha], z ~ N(0, sigma^2). The integrand
    # is analytic and its mass lies between 0 and alpha, so the trapezoid rule converges
    # exponentially; logarithms keep small sigmas from overflowing.
    reach = sigma * np.sqrt(2 * _LOG_TAIL)
    z, width = np.linspace(
        -reach, ORDERS[-1] + reach, 1 + int((ORDERS[-1] + 2 * reach) / (sigma / 12)), retstep=True
    )
    log_density = -(z**2) / (2 * sigma**2) - np.log(sigma * np.sqrt(2 * np.pi))
    log_ratio = np.logaddexp(np.log1p(-q), np.log(q) + (2 * z - 1) / (2 * sigma**2))
    log_integrand = log_density + ORDERS[:, None] * log_ratio
    peak = log_integrand.max(axis=1)
    log_moment = peak + np.log(np.exp(log_integrand - peak[:, None]).sum(axis=1) * width)
    cost: NDArray[np.float64] = np.maximum(log_moment, 0) / (ORDERS - 1)
    cost.setflags(write=False)
    return cost


def epsilon_of(cost: NDArray[np.float64], delta: float) -> float:
    """Returns epsilon at `delta` for summed costs; 0 when nothing was spent.

    Raises ValueError unless 0 < delta < 1.
    """
    if not 0 < delta < 1:
        raise ValueError("0 < delta < 1 is needed")
    if not cost.any():
        return 0.0
    terms = cost - (np.log(delta) + np.log(ORDERS)) / (ORDERS - 1) + np.log1p(-1 / ORDERS)
    return float(np.maximum(terms.min(), 0.0))


def epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """Returns epsilon of one series of equal steps."""
    return epsilon_of(rdp(noise_multiplier, sample_rate, steps), delta)


def noise_multiplier(target_epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Returns the least noise, to four decimals, that keeps `steps` steps within the target.

    Raises ValueError when no sensible noise does.
    """
    low, high = 0.05, 1.0
    while epsilon(high, sample_rate, steps, delta) > target_epsilon:
        low, high = high, high * 2
        if high > NOISE_MAX:
            raise ValueError(f"no noise keeps {steps} steps within epsilon {target_epsilon}")
    while high - low > 5e-5:
        middle = (low + high) / 2
        if epsilon(middle, sample_rate, steps, delta) > target_epsilon:
            low = middle
        else:
            high = middle
    # Rounded up: the written-down number must keep the promise, too.
    return float(np.ceil(high * 1e4) / 1e4)
