"""Models after means of a round's updates, one after the other, each but a little different.

What an update does to the mean is asked by leaving it out, for every update: summed afresh each
time, that is n sums of n updates. So one sum is kept, in float64, and updates are taken out of it
and put into it. Taking a huge update out of a sum leaves its rounding behind, larger than the
others where it was huge enough; then the sum is made afresh. It is huge only beside all that
remain, so of the updates of one round that befalls one.
"""

from __future__ import annotations

import numpy as np

from aegis_learning.parameters import Array, Parameters, flatten, unflatten
from aegis_server.review.deviations import Members, Vector
from aegis_server.review.population import Population
from aegis_server.review.quality import loss_of

_BLOCK = 1 << 15
# The rounding of float64 is 2^-53 of the largest number in the sum: 2^-33 of what remains, and
# numbers of float32 are known to 2^-24 of themselves.
_HUGE = float(1 << 20)


class Means:
    """The models after the weighted means of some of a round's updates.

    Two vectors of float32 and one of float64 are kept, each as long as an update.
    """

    def __init__(self, population: Population) -> None:
        self._population = population
        self._matrix = population.matrix
        self._shapes = population.family.shapes
        self._weights = population.weights
        self._base = flatten(population.base)
        self._model: Array = np.empty_like(self._base)
        # The largest number each update adds to the sum.
        peaks = [max(float(row.max()), -float(row.min())) for row in self._matrix]
        self._peaks: Vector = self._weights * np.array(peaks, np.float64)
        self._inside: Members = np.zeros(len(self._matrix), bool)
        self._sum: Vector = np.zeros(self._matrix.shape[1])
        # The largest of all that were inside since the sum was made.
        self._largest = 0.0

    def model(self, members: Members) -> Parameters:
        """Returns the model after the mean of these, or as it was when there are none.

        It is good until the next call.
        """
        factors = np.where(members, self._weights, 0.0) - np.where(self._inside, self._weights, 0.0)
        remains = float(self._peaks[members].max(initial=0.0))
        if self._largest > _HUGE * remains:
            factors = np.where(members, self._weights, 0.0)
            self._sum[:] = 0.0
            self._largest = 0.0
        self._largest = max(self._largest, remains)
        self._inside = members.copy()
        self._add(factors, float(self._weights[members].sum()) or 1.0)
        return unflatten(self._model, self._shapes)

    def loss(self, members: Members) -> float:
        """Returns the golden loss of that model."""
        golden = self._population.golden
        with np.errstate(all="ignore"):
            logits = self._population.family.logits(self.model(members), golden.x)
        return loss_of(logits, golden.y)

    def _add(self, factors: Vector, total: float) -> None:
        """Adds so much of each update to the sum, and leads the model there."""
        chosen = np.flatnonzero(factors)
        for start in range(0, len(self._sum), _BLOCK):
            part = slice(start, start + _BLOCK)
            for i in chosen:
                # Of two numbers of float64, or the product would be rounded to float32.
                self._sum[part] += np.multiply(self._matrix[i, part], factors[i], dtype=np.float64)
            with np.errstate(over="ignore"):
                mean = (self._sum[part] / total).astype(np.float32)
                np.add(self._base[part], mean, out=self._model[part])
