"""A round's updates side by side: what examiners look at, each thing computed once.

n updates of d numbers; rows keep the order of the submissions. Everything is derived when it is
first asked for, so that an examiner that needs little costs little.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from aegis_learning import gradients, parameters
from aegis_learning.parameters import Array, Parameters, flatten, subtract
from aegis_learning.rows import Split
from aegis_server.review.case import Case

Vector = NDArray[np.float64]


class Population:
    """The updates of one case.

    Raises the errors of `aegis_learning.parameters` when base or updates are not what intake let
    through.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.family = case.family
        self.golden: Split = case.golden
        self.base: Parameters = parameters.decode(case.base, case.family.shapes)
        self.updates: tuple[Parameters, ...] = tuple(
            parameters.decode(each.data, case.family.shapes) for each in case.submissions
        )
        self.examples: Vector = np.array([each.examples for each in case.submissions], np.float64)

    def __len__(self) -> int:
        return len(self.updates)

    @cached_property
    def matrix(self) -> Array:
        """The updates, shape (n, d), float32; tensors in order of their names."""
        return np.stack([flatten(update) for update in self.updates])

    @cached_property
    def gram(self) -> Vector:
        """Products of every two updates, shape (n, n), summed in float64."""
        total = np.zeros((len(self), len(self)))
        for start in range(0, self.matrix.shape[1], 1 << 16):
            block = self.matrix[:, start : start + (1 << 16)].astype(np.float64)
            total += block @ block.T
        return total

    @cached_property
    def norms(self) -> Vector:
        """Lengths of the updates, shape (n,)."""
        return np.sqrt(np.diag(self.gram))

    @cached_property
    def cosines(self) -> Vector:
        """Cosines between every two updates, shape (n, n), -1 on the diagonal."""
        below = np.outer(self.norms, self.norms)
        cosines = np.divide(self.gram, below, out=np.zeros_like(self.gram), where=below > 0)
        np.fill_diagonal(cosines, -1.0)
        return cosines

    @cached_property
    def median(self) -> Array:
        """The coordinate-wise median of the round, shape (d,)."""
        middle: Array = np.median(self.matrix, axis=0).astype(np.float32)
        return middle

    @cached_property
    def root(self) -> Array:
        """What a site with the golden rows would have sent, shape (d,), without noise."""
        local, family = self.case.local, self.family
        centre = np.array(local.centre)
        rows, begin = self.golden, self.base
        if local.centre:
            rows = Split((rows.x - centre).astype(np.float32), rows.y)
            begin = family.moved(self.base, centre)
        after = gradients.descend(
            family, begin, rows, steps=local.steps, learning_rate=local.learning_rate
        )
        if local.centre:
            after = family.moved(after, -centre)
        return flatten(subtract(after, self.base))

    def moved(self, delta: Array) -> Parameters:
        """Returns the model after an update given as a vector."""
        with np.errstate(over="ignore"):
            return parameters.add(self.base, parameters.unflatten(delta, self.family.shapes))
