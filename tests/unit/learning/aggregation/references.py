"""The rules as their papers write them down, one number at a time and in exact arithmetic.

Nothing here knows the code under test. Where a paper leaves a choice open (ties), the reference
returns every score, and the test accepts any update whose score is the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

Vector = Sequence[Fraction]


def exact(rows: Sequence[Sequence[float]]) -> list[list[Fraction]]:
    """Floats as the fractions they are."""
    return [[Fraction(float(value)) for value in row] for row in rows]


def mean(rows: Sequence[Vector], weights: Sequence[Fraction]) -> list[Fraction]:
    """McMahan et al. 2017, Algorithm 1."""
    total = sum(weights)
    return [sum(w * v for w, v in zip(weights, column, strict=True)) / total
            for column in zip(*rows, strict=True)]  # fmt: skip


def middle(values: Sequence[Fraction]) -> Fraction:
    """The usual one-dimensional median."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def median(rows: Sequence[Vector]) -> list[Fraction]:
    """Yin et al. 2018, Definition 1."""
    return [middle(column) for column in zip(*rows, strict=True)]


def trimmed(rows: Sequence[Vector], cut: int) -> list[Fraction]:
    """Yin et al. 2018, Definition 2, one removal at a time."""
    result = []
    for column in zip(*rows, strict=True):
        left = list(column)
        for _ in range(cut):
            left.remove(max(left))
            left.remove(min(left))
        result.append(sum(left, Fraction(0)) / len(left))
    return result


def distance(x: Vector, y: Vector) -> Fraction:
    """Squared, as Krum uses it."""
    return sum(((a - b) ** 2 for a, b in zip(x, y, strict=True)), Fraction(0))


def krum_scores(rows: Sequence[Vector], malicious: int) -> list[Fraction]:
    """Blanchard et al. 2017, section 4: over the n - f - 2 closest."""
    neighbours = max(len(rows) - malicious - 2, 1)
    return [
        sum(
            sorted(distance(x, y) for j, y in enumerate(rows) if j != i)[:neighbours],
            Fraction(0),
        )
        for i, x in enumerate(rows)
    ]


def closest_to_median(selection: Sequence[Vector], kept: int) -> list[Fraction]:
    """El Mhamdi et al. 2018, step 2."""
    result = []
    for column in zip(*selection, strict=True):
        centre = middle(column)
        nearest = sorted(column, key=lambda value: (abs(value - centre), value))[:kept]
        result.append(sum(nearest, Fraction(0)) / kept)
    return result


def fltrust(rows: Sequence[Sequence[float]], root: Sequence[float]) -> list[float] | None:
    """Cao et al. 2021, Algorithm 1 of aggregation, in float64."""

    def length(x: Sequence[float]) -> float:
        return float(sum(v * v for v in x) ** 0.5)

    total, result = 0.0, [0.0] * len(root)
    for row in rows:
        if length(row) == 0:
            continue
        cosine = sum(a * b for a, b in zip(row, root, strict=True)) / (length(row) * length(root))
        trust = max(cosine, 0.0)
        total += trust
        result = [
            r + trust * (length(root) / length(row)) * v for r, v in zip(result, row, strict=True)
        ]
    return [r / total for r in result] if total > 0 else None


def adam(
    deltas: Sequence[Sequence[float]], eta: float, beta1: float, beta2: float, tau: float
) -> list[list[float]]:
    """Reddi et al. 2021, Algorithm 2: the steps of all rounds, in float64."""
    m, v = [0.0] * len(deltas[0]), [tau**2] * len(deltas[0])
    steps = []
    for delta in deltas:
        m = [beta1 * a + (1 - beta1) * d for a, d in zip(m, delta, strict=True)]
        v = [beta2 * a + (1 - beta2) * d * d for a, d in zip(v, delta, strict=True)]
        steps.append([eta * a / (b**0.5 + tau) for a, b in zip(m, v, strict=True)])
    return steps
