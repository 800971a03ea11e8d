"""What filters share: the mean of what they keep, weighted by rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aegis_server.review.lab.simulating import Decided, Sent


def keep(sent: Sent, refused: NDArray[np.bool_], scores: NDArray[np.float64]) -> Decided:
    """Returns the decision to leave these out; the model stays where it is when nothing is left."""
    delta = np.zeros(sent.matrix.shape[1], np.float32)
    if not refused.all():
        weights = sent.rows * ~refused
        delta = (weights / weights.sum() @ sent.matrix.astype(np.float64)).astype(np.float32)
    return Decided(delta, refused, scores)
