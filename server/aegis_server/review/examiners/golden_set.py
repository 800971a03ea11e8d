"""What does an update do to the model, alone, on rows nobody trains on?

One site's update may well hurt alone: with unevenly dealt labels it leans toward the labels the
site has, and small sites add much noise. So what it does is held against what the others do alone:
loss, accuracy, area under the curve, calibration, and what of each class is found. No finding of
these rejects by itself; what the update does to the round's mean is asked by `harm`.

`pull` asks gently: does the update go up the slope of the golden loss at the mean of the members?
`push` is how far it moves the mean up there, with the share its rows have: what is left of harm
when no update is large, and what many attackers cannot hide behind each other.
"""

from __future__ import annotations

import numpy as np

from aegis_learning import gradients
from aegis_learning.parameters import Array, flatten
from aegis_server.review.deviations import Vector, above_others
from aegis_server.review.findings import Examination, Finding, corroborating, indicative
from aegis_server.review.population import Population
from aegis_server.review.quality import Quality, quality

NAME = "golden-set"

# Nats by which it raises the loss alone, beyond what the others do alone.
LOSS_EXCESS = 4.0
# Share of golden rows it gets wrong alone, beyond what the others do alone.
ACCURACY_DROP = 0.5
# Share of a class it no longer finds, of the area under the curve, and of calibration, likewise.
RECALL_DROP = 0.8
AUC_DROP = 0.4
CALIBRATION_EXCESS = 0.5


def examine(population: Population) -> Examination:
    """Returns what each update does alone, to the mean, and along the slope."""
    base = population.once("base quality", lambda: quality_at(population, None))
    alone = population.once(
        "alone", lambda: [quality_at(population, row) for row in population.matrix]
    )
    # The five numbers, and what is found of each class: shape (n, 4 + classes).
    numbers = np.array(
        [[e.loss, e.accuracy, e.auc, e.calibration, *e.recalls] for e in alone], np.float64
    )
    above = above_others(numbers, population.members)
    up = _uphill(population)
    features = {
        "golden-set/loss": numbers[:, 0] - base.loss,
        "golden-set/accuracy": base.accuracy - numbers[:, 1],
        "golden-set/auc": base.auc - numbers[:, 2],
        "golden-set/recall": -above[:, 4:].min(axis=1),
        "golden-set/pull": up / np.where(population.norms > 0, population.norms, 1.0),
        "golden-set/push": len(population) * population.weights * up,
    }
    return Examination([_findings(row) for row in above], features)


def _findings(above: Vector) -> list[Finding]:
    loss, accuracy, auc, calibration, *recalls = above.tolist()
    label = int(np.argmin(recalls))
    return [
        _loss_finding(loss),
        _accuracy_finding(-accuracy),
        _recall_finding(-recalls[label], label),
        _auc_finding(-auc),
        _calibration_finding(calibration),
    ]


def quality_at(population: Population, delta: Array | None) -> Quality:
    """Returns how the model does on the golden rows after this update; None: before any."""
    params = population.base if delta is None else population.moved(delta)
    # A poisoned model may overflow on its way to the logits; that is an answer, not a failure.
    with np.errstate(all="ignore"):
        return quality(population.family.logits(params, population.golden.x), population.golden.y)


def _uphill(population: Population) -> Vector:
    """Returns how far each update goes up the slope of the golden loss at the members' mean."""
    with np.errstate(all="ignore"):
        slope = flatten(
            gradients.loss_gradient(
                population.family,
                population.moved(population.mean(population.members)),
                population.golden,
            )
        )
    if not np.isfinite(slope).all():
        return np.zeros(len(population))
    length = float(np.linalg.norm(slope.astype(np.float64)))
    return population.along(slope) / (length or 1.0)


def _loss_finding(excess: float) -> Finding:
    text = f"alone it raises the golden loss by {excess:+.2f} nats compared to the other updates"
    strength = corroborating(excess / LOSS_EXCESS)
    return Finding(NAME, "loss_excess", excess, LOSS_EXCESS, strength, text)


def _accuracy_finding(drop: float) -> Finding:
    text = f"alone it gets {drop:+.0%} of the golden rows wrong compared to the other updates"
    strength = corroborating(drop / ACCURACY_DROP)
    return Finding(NAME, "accuracy_drop", drop, ACCURACY_DROP, strength, text)


def _recall_finding(drop: float, label: int) -> Finding:
    text = f"alone it finds {drop:.0%} less of class {label} than the other updates do"
    strength = indicative(drop / RECALL_DROP)
    return Finding(NAME, "recall_drop", drop, RECALL_DROP, strength, text)


def _auc_finding(drop: float) -> Finding:
    text = f"alone it ranks golden rows worse than the others do: {drop:+.2f} of the area"
    strength = indicative(drop / AUC_DROP)
    return Finding(NAME, "auc_drop", drop, AUC_DROP, strength, text)


def _calibration_finding(excess: float) -> Finding:
    text = f"alone its confidence is off by {excess:+.0%} compared to the other updates"
    strength = indicative(excess / CALIBRATION_EXCESS)
    return Finding(NAME, "calibration_excess", excess, CALIBRATION_EXCESS, strength, text)
