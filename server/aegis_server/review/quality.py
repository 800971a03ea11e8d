"""How well a model answers the golden rows, in the five numbers the review looks at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aegis_learning.parameters import Array
from aegis_learning.scores import accuracy, log_loss, recall_by_class

# Stands for a loss too large for numbers: an honest model never comes near.
LOSS_MAX = 1_000.0
_BINS = 10


@dataclass(frozen=True, slots=True)
class Quality:
    """Loss in nats; accuracy, area under the curve and calibration error (ECE) as shares.

    `recalls` are by class, 1 for a class without rows. The area is the mean of each class against
    the rest; 0.5, a guess, where the rows are all of one class.
    """

    loss: float
    accuracy: float
    auc: float
    calibration: float
    recalls: NDArray[np.float64]


def quality(logits: Array, y: NDArray[np.int64]) -> Quality:
    """Returns the quality of these answers; answers that are no numbers are the worst there are."""
    classes = logits.shape[1]
    loss = loss_of(logits, y)
    if loss >= LOSS_MAX:
        return Quality(LOSS_MAX, 0.0, 0.0, 1.0, np.zeros(classes))
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return Quality(
        loss,
        accuracy(logits, y),
        areas(shares, y),
        calibration_error(shares, y),
        recall_by_class(logits, y),
    )


def loss_of(logits: Array, y: NDArray[np.int64]) -> float:
    """Returns the mean cross-entropy in nats, at most `LOSS_MAX`."""
    with np.errstate(all="ignore"):
        loss = log_loss(logits, y)
    return min(loss, LOSS_MAX) if math.isfinite(loss) else LOSS_MAX


def calibration_error(shares: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Returns the expected calibration error (Naeini et al. 2015) over ten bins of confidence."""
    confidence = shares.max(axis=1)
    hit = shares.argmax(axis=1) == y
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    sure = np.bincount(bins, weights=confidence, minlength=_BINS)
    right = np.bincount(bins, weights=hit, minlength=_BINS)
    return float(np.abs(sure - right).sum() / len(y))


def areas(shares: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Returns the mean area under the curve of each class against the rest, ties counting half."""
    labels = np.unique(y)
    if len(labels) < 2:
        return 0.5
    of = labels[-1:] if shares.shape[1] == 2 else labels
    return float(np.mean([_area(shares[:, label], y == label) for label in of]))


def _area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    # The Mann-Whitney statistic, as in `aegis_learning.scores.auc`, by bisection.
    below = np.sort(scores[~positive])
    own = scores[positive]
    wins = np.searchsorted(below, own, "left") + np.searchsorted(below, own, "right")
    return float(wins.mean() / (2 * len(below)))
