"""Which attack does it look like? A hint for people and statistics; no verdict rests on it.

The first of these rules that holds, on findings and on the deviations the detector saw:

| name | rule |
|---|---|
| free-rider | all zeros, or the model's last step again |
| noise-left-out | less noise than was promised |
| backdoor | the backdoor examiner is at least at three quarters |
| sign-flip | away from where the golden rows and the others go, by more than two deviations |
| sign-flip, label-flip | over the run backward, or where wrong labels lead; two classes: alike |
| scaling | more than ten deviations too long, and not away from where the golden rows go |
| collusion | another update, or its path, is more than three deviations too near |
| noise | more than three deviations too long, or nobody else's |
| label-flip | recall or ranking lost by more than two deviations |
| unknown | none of them |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import asinh

from aegis_server.review.examiners import labels, noise, twins
from aegis_server.review.findings import CORROBORATING, Finding

NAME = "kind"
MEASURE = "looks_like"

Features = Mapping[str, float]
_TEN, _THREE, _TWO = asinh(10.0), asinh(3.0), asinh(2.0)


def looks_like(findings: Sequence[Finding], features: Features) -> tuple[Finding, ...]:
    """Returns one finding of no strength whose text is the name."""
    name = next((name for name, holds in _RULES if holds(findings, features)), "unknown")
    return (Finding(NAME, MEASURE, 0.0, 0.0, 0.0, name),)


def _strong(examiner: str, least: float, *measures: str) -> Callable[..., bool]:
    def holds(findings: Sequence[Finding], _: Features) -> bool:
        return any(
            found.examiner == examiner
            and found.strength >= least
            and (not measures or found.measure in measures)
            for found in findings
        )

    return holds


def _colluding(findings: Sequence[Finding], features: Features) -> bool:
    near = max(features["twins/nearest"], features["so-far/past/nearest"])
    return near > _THREE or _strong(twins.NAME, 1.0, "largest_cosine")(findings, features)


def _scaled(_: Sequence[Finding], features: Features) -> bool:
    return features["length/norm"] > _TEN and features["direction/root"] > -_TWO


def _turned(_: Sequence[Finding], features: Features) -> bool:
    root = min(features["direction/root"], features["so-far/direction/root"])
    others = min(features["direction/others"], features["so-far/direction/others"])
    return root < -_TWO and others < -_TWO


def _noisy(_: Sequence[Finding], features: Features) -> bool:
    return max(features["noise/residual"], features["length/norm"]) > _THREE


def _mislabelled(_: Sequence[Finding], features: Features) -> bool:
    names = ("golden-set/recall", "golden-set/auc", "golden-set/accuracy")
    return any(max(features[name], features[f"so-far/{name}"]) > _TWO for name in names)


def _led_away(measure: str) -> Callable[..., bool]:
    """Of two that are found, the one that is further beyond its threshold."""

    def holds(findings: Sequence[Finding], _: Features) -> bool:
        found = [each for each in findings if each.examiner == labels.NAME and each.strength >= 1]
        return bool(found) and max(found, key=lambda each: each.strength).measure == measure

    return holds


_RULES: tuple[tuple[str, Callable[[Sequence[Finding], Features], bool]], ...] = (
    ("free-rider", _strong(twins.NAME, 1.0, "repeated_step", "length")),
    ("noise-left-out", _strong(noise.NAME, 1.0)),
    ("backdoor", _strong("backdoor", CORROBORATING)),
    ("sign-flip", _turned),
    ("sign-flip", _led_away("backward")),
    ("label-flip", _led_away("wrong")),
    ("scaling", _scaled),
    ("collusion", _colluding),
    ("noise", _noisy),
    ("label-flip", _mislabelled),
)
