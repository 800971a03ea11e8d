"""A round's updates side by side: what examiners look at, each thing computed once.

n updates of d numbers; rows keep the order of the submissions. Everything is derived when it is
first asked for, so that an examiner that needs little costs little. At ten million numbers the
matrix is most of the memory, so only `scaled` makes a second one: updates are views of its rows,
sums in float64 are made of blocks of columns, and directions are compared by the products of every
two updates, which are n x n.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from aegis_learning import gradients, parameters
from aegis_learning.aggregation import ranks
from aegis_learning.aggregation.updates import Updates
from aegis_learning.parameters import Array, Parameters, flatten, subtract, unflatten
from aegis_learning.rows import Split
from aegis_server.review.case import Case
from aegis_server.review.deviations import Members, Vector, ratio
from aegis_server.review.sketches import sketches

_BLOCK = 1 << 16
# Statistics over coordinates need no more of them than this.
_SAMPLED = 1 << 18

T = TypeVar("T")


class Population:
    """The updates of one case, and which of them are `members`: what the others are held against.

    A `matrix` of them, shape (n, d), stands instead of the bytes of the submissions if it is given.
    Raises the errors of `aegis_learning.parameters` when base or updates are not what intake let
    through.
    """

    def __init__(self, case: Case, matrix: Array | None = None) -> None:
        self.case = case
        self.family = case.family
        self.golden: Split = case.golden
        self.base: Parameters = parameters.decode(case.base, case.family.shapes)
        #: The updates, shape (n, d), float32; tensors in order of their names.
        self.matrix: Array = _decoded(case) if matrix is None else matrix
        self.examples: Vector = np.array([each.examples for each in case.submissions], np.float64)
        self.members: Members = np.ones(len(case.submissions), bool)
        self._made: dict[str, object] = {}

    @classmethod
    def as_trained(cls, case: Case) -> Population:
        """Returns a round in the coordinates its participants train in: around the centre, if any.

        There privacy noise is the same in every number; here the first layer's biases have more.
        """
        population = cls(case)
        if not case.local.centre:
            return population
        family, centre = case.family, np.array(case.local.centre)

        def moved(params: Parameters) -> Parameters:
            # What is finite may not be any more in float32; then it is the largest there is.
            with np.errstate(over="ignore"):
                return {k: np.nan_to_num(v) for k, v in family.moved(params, centre).items()}

        def around(model: bytes) -> bytes:
            return parameters.encode(moved(parameters.decode(model, family.shapes)))

        for row in population.matrix:
            row[:] = flatten(moved(unflatten(row, family.shapes)))
        trained = replace(
            case,
            base=around(case.base),
            before=around(case.before) if case.before else b"",
            golden=Split((case.golden.x - centre).astype(np.float32), case.golden.y),
            local=replace(case.local, centre=()),
        )
        return cls(trained, population.matrix)

    def __len__(self) -> int:
        return len(self.matrix)

    def among(self, members: Members) -> Population:
        """Returns the same updates, held against these only; what was computed is shared."""
        other = copy.copy(self)
        other.members = members
        return other

    def part(self, places: Sequence[int]) -> Population:
        """Returns a round of these updates only."""
        chosen = tuple(self.case.submissions[i] for i in places)
        return Population(replace(self.case, submissions=chosen), self.matrix[list(places)])

    def scaled(self, factors: Vector) -> Population:
        """Returns a round of these updates, each so many times as long."""
        if (factors == 1).all():
            return self
        return Population(self.case, self.matrix * factors[:, None].astype(np.float32))

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Returns what `make` returned the first time; it must not depend on the members."""
        if name not in self._made:
            self._made[name] = make()
        return cast("T", self._made[name])

    @cached_property
    def updates(self) -> tuple[Parameters, ...]:
        """The updates by tensor; views of the matrix."""
        return tuple(unflatten(row, self.family.shapes) for row in self.matrix)

    @cached_property
    def layers(self) -> Mapping[str, slice]:
        """Where each tensor is in a row of the matrix."""
        found, start = {}, 0
        for name in sorted(self.family.shapes):
            stop = start + math.prod(self.family.shapes[name])
            found[name] = slice(start, stop)
            start = stop
        return found

    @cached_property
    def grams(self) -> Mapping[str, Vector]:
        """By tensor: products of every two updates, shape (n, n), summed in float64."""
        return {name: _gram(self.matrix[:, part]) for name, part in self.layers.items()}

    @cached_property
    def gram(self) -> Vector:
        """Products of every two updates, shape (n, n), summed in float64."""
        total: Vector = np.sum(list(self.grams.values()), axis=0)
        return total

    @cached_property
    def norms(self) -> Vector:
        """Lengths of the updates, shape (n,)."""
        return np.sqrt(np.diag(self.gram))

    @cached_property
    def cosines(self) -> Vector:
        """Cosines between every two updates, shape (n, n), -1 on the diagonal."""
        cosines = ratio(self.gram, np.outer(self.norms, self.norms))
        np.fill_diagonal(cosines, -1.0)
        return cosines

    @cached_property
    def median(self) -> Array:
        """The coordinate-wise median of the round, shape (d,)."""
        n = len(self)
        return ranks.means(Updates.of(list(self.matrix)), (n - 1) // 2, n // 2)

    @cached_property
    def sampled(self) -> Array:
        """At most 262,144 columns of the matrix, evenly spread: shape (n, columns)."""
        return self.matrix[:, :: self.stride]

    @property
    def stride(self) -> int:
        """Every how many-th column is sampled."""
        numbers: int = self.matrix.shape[1]
        return -(-numbers // _SAMPLED)

    @cached_property
    def sketches(self) -> list[bytes]:
        """A short stand-in for each update, comparable with those of other rounds."""
        return sketches(self.matrix)

    @cached_property
    def last_step(self) -> Array:
        """What the round before has changed in the model, shape (d,); zeros when there was none."""
        if not self.case.before:
            return np.zeros(self.matrix.shape[1], np.float32)
        before = parameters.decode(self.case.before, self.family.shapes)
        return flatten(subtract(self.base, before))

    @cached_property
    def root(self) -> Array:
        """What a site with the golden rows would have sent, shape (d,), without noise.

        The server's own update of FLTrust (Cao et al. 2021).
        """
        local, family = self.case.local, self.family
        begin, rows = self._around(self.golden)
        after = gradients.descend(
            family, begin, rows, steps=local.steps, learning_rate=local.learning_rate
        )
        if local.centre:
            after = family.moved(after, -np.array(local.centre))
        return flatten(subtract(after, self.base))

    def downhill(self, rows: Split, *, mislabelled: bool = False) -> Array:
        """Returns the way a first step on these rows leads, as long as their slope, shape (d,).

        `mislabelled` rows have every other label than their own, in equal shares.
        """
        begin, rows = self._around(rows)
        if mislabelled:
            classes = self.family.classes
            shares = (1 - np.eye(classes, dtype=np.float32)[rows.y]) / np.float32(classes - 1)
            slope = gradients.gradient_toward(self.family, begin, rows.x, shares)
        else:
            slope = gradients.loss_gradient(self.family, begin, rows)
        if self.case.local.centre:
            # Linear, so that what is true of models is true of their differences.
            slope = self.family.moved(slope, -np.array(self.case.local.centre))
        return -flatten(slope)

    def _around(self, rows: Split) -> tuple[Parameters, Split]:
        """Returns the base and rows as participants train them: around the centre, if any."""
        if not self.case.local.centre:
            return self.base, rows
        centre = np.array(self.case.local.centre)
        moved = Split((rows.x - centre).astype(np.float32), rows.y)
        return self.family.moved(self.base, centre), moved

    @cached_property
    def weights(self) -> Vector:
        """The share each update has in a mean of all: by enrolled rows, equal when unknown."""
        rows = self.examples if (self.examples > 0).all() else np.ones(len(self))
        shares: Vector = rows / rows.sum()
        return shares

    def mean(self, members: Members) -> Array:
        """Returns the weighted mean of these updates, shape (d,); zero when there are none.

        Summed afresh each time: taking a huge row out of a sum would leave its rounding behind.
        """
        total = self.weights[members].sum()
        factors = np.where(members, self.weights, 0.0) / (total or 1.0)
        with np.errstate(over="ignore"):
            middle: Array = factors.astype(np.float32) @ self.matrix
        return middle

    def along(self, vector: Array) -> Vector:
        """Returns the product of each update with a vector, shape (n,), summed in float64."""
        total = np.zeros(len(self))
        for start in range(0, self.matrix.shape[1], _BLOCK):
            stop = start + _BLOCK
            total += self.matrix[:, start:stop].astype(np.float64) @ vector[start:stop]
        return total

    def moved(self, delta: Array) -> Parameters:
        """Returns the model after an update given as a vector."""
        with np.errstate(over="ignore"):
            return parameters.add(self.base, unflatten(delta, self.family.shapes))


def _decoded(case: Case) -> Array:
    size = sum(math.prod(shape) for shape in case.family.shapes.values())
    matrix: Array = np.empty((len(case.submissions), size), np.float32)
    for row, each in zip(matrix, case.submissions, strict=True):
        row[:] = flatten(parameters.decode(each.data, case.family.shapes))
    return matrix


def blocks(matrix: NDArray[np.float32]) -> Iterator[Vector]:
    """Yields the columns, a block at a time, in float64.

    The square of a float32 may overflow float32.
    """
    for start in range(0, matrix.shape[1], _BLOCK):
        yield matrix[:, start : start + _BLOCK].astype(np.float64)


def _gram(matrix: NDArray[np.float32]) -> Vector:
    total = np.zeros((len(matrix), len(matrix)))
    for block in blocks(matrix):
        total += block @ block.T
    return total
