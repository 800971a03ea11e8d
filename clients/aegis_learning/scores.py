"""How good answers are. Logits have shape (rows, classes), labels (rows,)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aegis_learning.parameters import Array


def accuracy(logits: Array, y: NDArray[np.int64]) -> float:
    """Returns the share of rows whose largest logit is the label."""
    return float(np.mean(logits.argmax(axis=1) == y))


def log_loss(logits: Array, y: NDArray[np.int64]) -> float:
    """Returns the mean cross-entropy in nats, computed in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_sum - shifted[np.arange(len(y)), y]))


def recall_by_class(logits: Array, y: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns, for each class, the share of its rows that was found; 1 for an absent class."""
    found = logits.argmax(axis=1) == y
    return np.array(
        [found[y == c].mean() if (y == c).any() else 1.0 for c in range(logits.shape[1])]
    )


def auc(scores: NDArray[np.floating], y: NDArray[np.int64]) -> float:
    """Returns how often a row of class 1 scores above one of class 0, ties counting half.

    `scores` has shape (rows,). Raises ValueError unless both classes occur.
    """
    positives = int((y == 1).sum())
    negatives = len(y) - positives
    if not positives or not negatives:
        raise ValueError("both classes are needed")
    # The Mann-Whitney statistic; equal scores share the mean of their ranks.
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    above = ranks[y == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))
