"""The numbers a detector looks at: which way each is suspicious, and what difference is none.

A round's numbers become deviations from its ordinary updates, and then inverse hyperbolic sines of
them: a hundred deviations are not ten times as suspicious as ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from aegis_server.review.deviations import Members, Vector, robust_z


class Kind(StrEnum):
    """What a measure is about."""

    EFFECT = "effect"
    FORM = "form"
    PAST = "past"


@dataclass(frozen=True, slots=True)
class Measure:
    """`tail`: +1 when high is suspicious, -1 low, 0 either; `floor`: the least deviation."""

    kind: Kind
    tail: int
    floor: float
    words: str


MEASURES: Mapping[str, Measure] = {
    "golden-set/loss": Measure(Kind.EFFECT, 1, 0.005, "golden loss alone"),
    "golden-set/accuracy": Measure(Kind.EFFECT, 1, 0.01, "golden accuracy lost"),
    "golden-set/auc": Measure(Kind.EFFECT, 1, 0.005, "area under the curve lost"),
    "golden-set/recall": Measure(Kind.EFFECT, 1, 0.05, "recall lost of the worst class"),
    "golden-set/pull": Measure(Kind.EFFECT, 1, 0.005, "pull up the golden loss"),
    "golden-set/push": Measure(Kind.EFFECT, 1, 0.001, "push of the mean up the golden loss"),
    "direction/root": Measure(Kind.EFFECT, -1, 0.005, "cosine to the golden rows' own update"),
    "mixture/cone": Measure(Kind.EFFECT, -1, 0.005, "way along a mix of labels"),
    "mixture/inside": Measure(Kind.EFFECT, -1, 0.005, "cosine to the nearest mix of labels"),
    # Too far is scaled up, backward is worse.
    "direction/reach": Measure(Kind.EFFECT, 0, 0.01, "way along the golden rows' own update"),
    "fingerprint/cosine": Measure(Kind.EFFECT, -1, 0.01, "cosine of what it teaches"),
    "fingerprint/distance": Measure(Kind.EFFECT, 1, 0.005, "distance of its fingerprint"),
    # Colluders are nearer to the others than the others are: either side is odd.
    "direction/others": Measure(Kind.FORM, 0, 0.005, "cosine to the other updates"),
    "direction/signs": Measure(Kind.FORM, 0, 0.005, "signs shared with the others"),
    "direction/layer": Measure(Kind.FORM, 0, 0.01, "least cosine of a layer"),
    "mixture/far": Measure(Kind.FORM, 0, 0.01, "length beside what rows would make"),
    "length/norm": Measure(Kind.FORM, 0, 0.01, "length"),
    "length/layer": Measure(Kind.FORM, 1, 0.1, "share of one layer"),
    "noise/residual": Measure(Kind.FORM, 0, 0.005, "part that nobody else has"),
    "spectral/distance": Measure(Kind.FORM, 0, 0.005, "distance to the nearest half"),
    "spectral/projection": Measure(Kind.FORM, 1, 0.01, "length along the first direction"),
    "twins/nearest": Measure(Kind.FORM, 1, 0.05, "nearness of another update"),
    "twins/repeated": Measure(Kind.PAST, 1, 0.01, "cosine to the model's last step"),
    "past/nearest": Measure(Kind.PAST, 1, 0.05, "nearness of another's path"),
    "past/others": Measure(Kind.PAST, 0, 0.005, "cosine of its path to the others'"),
    "past/own": Measure(Kind.PAST, -1, 0.005, "cosine to its own past"),
}
NAMES = tuple(MEASURES)
TAILS = np.array([measure.tail for measure in MEASURES.values()])
FLOORS = np.array([measure.floor for measure in MEASURES.values()])


# What noise hides least.
DIRECTION = {"direction/root": -1, "mixture/cone": -1, "golden-set/pull": 1}
_EFFECT = {
    name: measure.tail
    for name, measure in MEASURES.items()
    if measure.kind is Kind.EFFECT and measure.tail
}
_MEANS = tuple(
    (np.array([NAMES.index(name) for name in means]), np.array(list(means.values())))
    for means in (DIRECTION, _EFFECT)
)


def of_kind(*kinds: Kind) -> list[int]:
    """Returns the positions of these kinds' measures."""
    return [k for k, measure in enumerate(MEASURES.values()) if measure.kind in kinds]


def toward_harm(deviations: Vector) -> Vector:
    """Returns the mean deviation toward harm, of the direction and of the effect: (n, 2).

    A mean of many that all point a little the wrong way says what the largest of them does not.
    """
    return np.stack([(deviations[:, of] * signs).mean(axis=1) for of, signs in _MEANS], axis=1)


def relative(features: Mapping[str, Vector], members: Members) -> Vector:
    """Returns the measures as deviations within the round, shape (n, measures).

    Those of an examiner that failed are 0.
    """
    nothing = np.zeros(len(members))
    values = np.stack([features.get(name, nothing) for name in NAMES], axis=1)
    return squeezed(robust_z(values, FLOORS, members))


def squeezed(deviations: Vector) -> Vector:
    """Returns the inverse hyperbolic sine: like the number near zero, like its logarithm far."""
    return np.arcsinh(deviations)


def suspicious(deviations: Vector) -> Vector:
    """Returns how far each measure is on its suspicious side; shape as given."""
    return np.where(TAILS == 0, np.abs(deviations), deviations * TAILS)
