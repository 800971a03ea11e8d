"""Squared distances between updates, from one matrix product a block.

‖x − y‖² = ‖x‖² + ‖y‖² − 2·x·y loses everything in float32 when x and y are close together and far
from zero. So what is multiplied are differences to one of the updates, the centre, which has to be
where most of them are: an attacker who could choose it would blind the rule. It is guessed from the
first columns; when all columns show that it was far from central, they are read once more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aegis_learning.aggregation.updates import Rows, Updates

Distances = NDArray[np.float64]

_WIDTH = 1 << 14
_GUESS_COLUMNS = 1 << 12
# Precision falls with the square of how far the centre is from the others.
_FAR = 16.0


def squared(updates: Updates) -> Distances:
    """Returns the matrix of squared distances, in the order of `updates.blocks`.

    Raises `NotFinite`.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        first = next(rows for _, rows in updates.blocks(_GUESS_COLUMNS))
        updates.require_finite(first)
        guess = np.stack(first).astype(np.float64)
        centre = _central(_from_gram(guess @ guess.T))
        found = _around(updates, centre)
        best = _central(found)
        if _spread(found)[centre] > _FAR * _spread(found)[best]:
            found = _around(updates, best)
    return found


def _around(updates: Updates, centre: int) -> Distances:
    gram = np.zeros((updates.count, updates.count))
    differences = np.empty((updates.count, min(_WIDTH, updates.size)), np.float32)
    for _, rows in updates.blocks(_WIDTH):
        block = differences[:, : rows[0].size]
        for into, row in zip(block, rows, strict=True):
            np.subtract(row, rows[centre], out=into)
        product: NDArray[np.floating] = block @ block.T
        if not np.isfinite(product).all():
            product = _exactly(updates, rows, centre)
        gram += product
    return _from_gram(gram)


def _exactly(updates: Updates, rows: Rows, centre: int) -> Distances:
    # Squares of numbers above 1e19 are not float32 any more, but the numbers are.
    updates.require_finite(rows)
    block = np.stack(rows).astype(np.float64)
    block -= block[centre].copy()
    product: Distances = block @ block.T
    return product


def _from_gram(gram: Distances) -> Distances:
    lengths = gram.diagonal()
    found = np.maximum(lengths[:, None] + lengths[None, :] - (gram + gram.T), 0.0)
    np.fill_diagonal(found, 0.0)
    return found


def _spread(found: Distances) -> NDArray[np.float64]:
    """Returns how far away half of the others are, for each."""
    if len(found) == 1:
        return np.zeros(1)
    others = np.sort(found + np.diag(np.full(len(found), np.inf)), axis=1)
    spread: NDArray[np.float64] = others[:, (len(found) - 2) // 2]
    return spread


def _central(found: Distances) -> int:
    return int(np.argmin(_spread(found)))
