"""What a detector is worth, before it judges anybody: runs under every attack, in a closed loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from aegis_server.review.lab.attacking import Attack
from aegis_server.review.lab.attacks import ALL
from aegis_server.review.lab.curves import curve
from aegis_server.review.lab.gates import Review
from aegis_server.review.lab.simulating import Outcome, simulate
from aegis_server.review.lab.worlds import world

_ROUNDS, _ROUNDS_QUICK = 20, 8
_SETTINGS: tuple[tuple[str, float | None, float | None], ...] = (
    ("digits", None, None),
    ("digits", 0.5, None),
    ("digits", 0.5, 8.0),
    ("breast-cancer", 0.5, None),
    ("breast-cancer", 0.5, 8.0),
)
_SETTINGS_QUICK = (_SETTINGS[1], _SETTINGS[4])


class Encoded(Protocol):
    """A detector, as far as it matters here: `review.detection.Detector` is one."""

    def encode(self) -> bytes:
        """Returns the file that `Case.detector` takes."""


@dataclass(frozen=True, slots=True)
class Measured:
    """How a detector does against one attack; rates are NaN for an attack that never attacked.

    `tpr` and `fpr` are those of the verdicts. `tpr_at_1_fpr`, `tpr_at_5_fpr` and `auc` are those of
    the scores: what the verdicts would be with the threshold at that many false positives.
    """

    attack: str
    tpr_at_1_fpr: float
    tpr_at_5_fpr: float
    auc: float
    tpr: float
    fpr: float


def measure(
    detector: Encoded, *, seeds: Sequence[int], quick: bool, attacks: Sequence[Attack] = ALL
) -> list[Measured]:
    """Returns the figures for every attack, over these seeds.

    `quick` is two kinds of worlds and eight rounds instead of five and twenty: half a minute of
    one core a seed instead of three.
    """
    data = detector.encode()
    settings = _SETTINGS_QUICK if quick else _SETTINGS
    rounds = _ROUNDS_QUICK if quick else _ROUNDS
    worlds = [
        world(name, seed=seed, alpha=alpha, epsilon=epsilon, rounds=rounds)
        for name, alpha, epsilon in settings
        for seed in seeds
    ]

    return [
        measured(
            attack.name,
            [
                simulate(here, attack, Review(here, detector=data), rounds=rounds, seed=here.seed)
                for here in worlds
            ],
        )
        for attack in attacks
    ]


def measured(attack: str, outcomes: Sequence[Outcome]) -> Measured:
    """Returns the figures of runs under one attack."""
    scores = [outcome.scores for outcome in outcomes]
    found = curve(
        np.concatenate([honest for honest, _ in scores]),
        np.concatenate([poisoned for _, poisoned in scores]),
    )
    nan = float("nan")
    return Measured(
        attack=attack,
        tpr_at_1_fpr=found.at(0.01) if found else nan,
        tpr_at_5_fpr=found.at(0.05) if found else nan,
        auc=found.area if found else nan,
        tpr=_mean([outcome.tpr for outcome in outcomes]),
        fpr=_mean([outcome.fpr for outcome in outcomes]),
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
