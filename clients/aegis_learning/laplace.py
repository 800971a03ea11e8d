"""Noise for counts: the discrete Laplace distribution, exact and from the system's randomness.

Sampled without floating point (Canonne, Kamath and Steinke, "The discrete Gaussian for differential
privacy", 2020, algorithms 1 and 2), because rounding is where such noise leaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from random import Random, SystemRandom

_SYSTEM = SystemRandom()


def noised(counts: Sequence[int], epsilon: float, random: Random = _SYSTEM) -> tuple[int, ...]:
    """Returns counts of disjoint groups with noise, none below zero.

    Adding or removing one row changes one count by one, so all of them together are
    `epsilon`-differentially private. Raises ValueError unless 0 < epsilon <= 100.
    """
    if not 0 < epsilon <= 100:
        raise ValueError("epsilon is above 0 and at most 100")
    rate = Fraction(epsilon).limit_denominator(10_000) or Fraction(1, 10_000)
    return tuple(max(0, count + _discrete_laplace(rate, random)) for count in counts)


def _discrete_laplace(rate: Fraction, random: Random) -> int:
    """Returns x with probability proportional to exp(-rate |x|)."""
    s, t = rate.numerator, rate.denominator
    while True:
        offset = random.randrange(t)
        if not _bernoulli_exp(Fraction(offset, t), random):
            continue
        whole = 0
        while _bernoulli_exp(Fraction(1), random):
            whole += 1
        size = (offset + t * whole) // s
        negative = random.randrange(2) == 1
        # Zero has no sign: half of its draws are drawn again.
        if not (negative and size == 0):
            return -size if negative else size


def _bernoulli_exp(gamma: Fraction, random: Random) -> bool:
    """Returns true with probability exp(-gamma), for 0 <= gamma <= 1."""
    step = 1
    while random.randrange(gamma.denominator * step) < gamma.numerator:
        step += 1
    return step % 2 == 1
