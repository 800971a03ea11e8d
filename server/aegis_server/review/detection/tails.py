"""How rare a number is among honest ones: tables of quantiles, and straight on beyond the last.

`Table` is the empirical survival function of honest values, on a logarithmic scale; beyond the
last quantile values are taken to be exponential, with the mean excess seen there, so that what
nobody has seen is rarer than what somebody has, without end. Tails of single measures add up to
the score of ECOD (Li et al. 2022, "ECOD: Unsupervised Outlier Detection Using Empirical Cumulative
Distribution Functions").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aegis_server.review.deviations import Vector

#: Shares of honest values that are above each entry of a table.
SURVIVAL = np.concatenate([np.linspace(1.0, 0.1, 10), np.geomspace(0.1, 0.005, 14)[1:]])
_LOGS = -np.log(SURVIVAL)
_TAIL = 0.02
_SCALE_MIN = 1e-3
_STEP = 1e-5


@dataclass(frozen=True, slots=True)
class Table:
    """`quantiles` have shape (columns, len(SURVIVAL)), growing; `scales` (columns,)."""

    quantiles: NDArray[np.float32]
    scales: NDArray[np.float32]

    def surprise(self, values: Vector) -> Vector:
        """Returns -log of the share of honest values as high, for values of (n, columns)."""
        found = np.empty(values.shape)
        for k in range(values.shape[1]):
            column, known = values[:, k], self.quantiles[k].astype(np.float64)
            beyond = np.maximum(column - known[-1], 0.0) / float(self.scales[k])
            found[:, k] = np.interp(column, known, _LOGS) + beyond
        return found

    def value(self, surprise: float, column: int) -> float:
        """Returns the value of a column that surprises this much."""
        known = self.quantiles[column].astype(np.float64)
        beyond = max(surprise - float(_LOGS[-1]), 0.0) * float(self.scales[column])
        return float(np.interp(surprise, _LOGS, known)) + beyond


def table(values: Vector) -> Table:
    """Returns the table of honest values of shape (n, columns)."""
    quantiles = np.quantile(values, 1 - SURVIVAL, axis=0).T
    start = np.quantile(values, 1 - _TAIL, axis=0)
    above = np.maximum(values - start, 0.0)
    scales = above.sum(axis=0) / np.maximum((above > 0).sum(axis=0), 1)
    # Interpolation wants growing values, also where many honest ones are equal.
    growing = np.maximum.accumulate(quantiles, axis=1) + _STEP * np.arange(len(SURVIVAL))
    return Table(growing.astype(np.float32), np.maximum(scales, _SCALE_MIN).astype(np.float32))
