"""Rows as numbers, with their labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aegis_learning.parameters import Array


@dataclass(frozen=True, slots=True)
class Split:
    """Rows: x of shape (rows, features), y the labels of shape (rows,)."""

    x: Array
    y: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: NDArray[np.int64]) -> Split:
        """Returns these rows, in this order."""
        return Split(self.x[rows], self.y[rows])
