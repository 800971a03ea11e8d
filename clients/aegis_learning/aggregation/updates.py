"""The updates of one round side by side: n vectors of d numbers, read in blocks of columns.

They may be vectors, one matrix (a `numpy.memmap` too), named parameters, or a stream of blocks that
can be read more than once. Whatever they are, a rule sees them in the same order: that of their
bytes. Sums of floats depend on the order of the summands, and ties are won by the first, so this
is what makes every rule indifferent to the order in which participants answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from aegis_learning.aggregation.refusals import (
    BadWeight,
    IllShaped,
    NotFinite,
    Overflow,
    TooFewUpdates,
)
from aegis_learning.parameters import Array, Parameters

Rows: TypeAlias = list[Array]
Source: TypeAlias = Callable[[int], Iterator[Rows]]

# The first numbers of two updates nearly always differ; only those of equal ones are read on.
_FIRST_COLUMNS = 64
_MORE_COLUMNS = 1 << 16


class Updates:
    """Updates with a weight each; without weights they weigh the same.

    `source` yields all columns, in order, as blocks of at most the width it is called with. To make
    some raises `IllShaped`, `BadWeight` or `TooFewUpdates` (when there is none).
    """

    def __init__(
        self, count: int, size: int, source: Source, weights: Sequence[float] | None
    ) -> None:
        if count < 1:
            raise TooFewUpdates(count, 1)
        self.count = count
        self.size = size
        self.weights = _checked(count, weights)
        self._source = source
        self._order: list[int] | None = None

    @classmethod
    def of(
        cls, vectors: Sequence[Array] | Array, weights: Sequence[float] | None = None
    ) -> Updates:
        """Returns updates given as vectors, or as the rows of a matrix."""
        rows = list(vectors)
        size = rows[0].size if rows else 0
        for index, row in enumerate(rows):
            _require_vector(index, row, size)
        return cls(len(rows), size, _whole(rows), weights)

    @classmethod
    def named(
        cls, updates: Sequence[Parameters], weights: Sequence[float] | None = None
    ) -> Updates:
        """Returns updates given by tensor; their columns are the tensors' in order of names."""
        shapes = {name: values.shape for name, values in updates[0].items()} if updates else {}
        for index, update in enumerate(updates):
            for name in sorted(update.keys() ^ shapes.keys()):
                raise IllShaped(index, f"tensor {name[:64]} is not in all updates")
            for name, shape in shapes.items():
                if update[name].shape != shape:
                    raise IllShaped(index, f"tensor {name[:64]} has another shape")
                _require_vector(index, update[name].reshape(-1), update[name].size)
        tensors = [[update[name].reshape(-1) for update in updates] for name in sorted(shapes)]

        def read(width: int) -> Iterator[Rows]:
            for rows in tensors:
                yield from _whole(rows)(width)

        return cls(len(updates), sum(rows[0].size for rows in tensors), read, weights)

    @classmethod
    def streamed(
        cls,
        count: int,
        size: int,
        blocks: Callable[[], Iterable[Array]],
        weights: Sequence[float] | None = None,
    ) -> Updates:
        """Returns updates that need not fit into memory.

        Each call of `blocks` begins anew and gives matrices of `count` rows, which together have
        `size` columns; rules read them up to five times, two of them only as far as needed.
        """

        def read(width: int) -> Iterator[Rows]:
            seen = 0
            for block in blocks():
                if block.ndim != 2 or block.dtype != np.float32 or block.shape[0] != count:
                    raise IllShaped(0, f"a block is not a float32 matrix of {count} rows")
                seen += block.shape[1]
                if seen > size:
                    break
                yield from _whole(list(block))(width)
            if seen != size:
                raise IllShaped(0, f"the blocks do not have {size} columns together")

        return cls(count, size, read, weights)

    @property
    def order(self) -> list[int]:
        """Positions, as the caller gave them, in the order of `blocks`."""
        if self._order is None:
            self._order = self._by_bytes()
        return self._order

    def blocks(self, width: int) -> Iterator[tuple[int, Rows]]:
        """Yields the first column and the rows of blocks of at most `width` columns.

        Rows are views: they must not be written to.
        """
        order, start = self.order, 0
        for rows in self._source(width):
            yield start, [rows[index] for index in order]
            start += rows[0].size

    def take(self, positions: Sequence[int]) -> Updates:
        """Returns some of them, by their position in `order`; in the same order."""
        chosen = [self.order[position] for position in sorted(positions)]
        source = self._source

        def read(width: int) -> Iterator[Rows]:
            for rows in source(width):
                yield [rows[index] for index in chosen]

        return _InOrder(len(chosen), self.size, read, None)

    def as_given(self, values: Sequence[float] | NDArray[np.float64]) -> tuple[float, ...]:
        """Returns values that are in the order of `blocks` in the order of the caller."""
        given = [0.0] * self.count
        for position, value in zip(self.order, values, strict=True):
            given[position] = float(value)
        return tuple(given)

    def require_finite(self, rows: Rows) -> None:
        """Raises `NotFinite` for the first of a block's rows, as the caller counts them."""
        for index, row in sorted(zip(self.order, rows, strict=True), key=lambda pair: pair[0]):
            if not np.isfinite(row).all():
                raise NotFinite(index)

    def blame(self, rows: Rows) -> None:
        """Raises for a block whose result is not finite: `NotFinite`, or `Overflow`."""
        self.require_finite(rows)
        raise Overflow("the updates are finite, what they add up to is not")

    def _by_bytes(self) -> list[int]:
        groups = _split(list(range(self.count)), next(self._source(_FIRST_COLUMNS)))
        if len(groups) < self.count:
            for rows in self._source(_MORE_COLUMNS):
                groups = [part for group in groups for part in _split(group, rows)]
                if len(groups) == self.count:
                    break
        # What is still together is equal; only its weights can differ.
        return [i for group in groups for i in sorted(group, key=lambda i: self.weights[i])]


class _InOrder(Updates):
    """Some of other updates, which are in order already."""

    def _by_bytes(self) -> list[int]:
        return list(range(self.count))


def _split(group: list[int], rows: Rows) -> list[list[int]]:
    if len(group) == 1:
        return [group]
    parts: dict[bytes, list[int]] = {}
    for index in group:
        parts.setdefault(rows[index].tobytes(), []).append(index)
    return [parts[key] for key in sorted(parts)]


def _whole(rows: Rows) -> Source:
    def read(width: int) -> Iterator[Rows]:
        for start in range(0, rows[0].size if rows else 0, width):
            yield [row[start : start + width] for row in rows]

    return read


def _require_vector(index: int, row: Array, size: int) -> None:
    if row.dtype != np.float32:
        raise IllShaped(index, f"has type {row.dtype} instead of float32")
    if row.ndim != 1:
        raise IllShaped(index, f"has {row.ndim} dimensions instead of one")
    if row.size != size or size == 0:
        raise IllShaped(index, f"has {row.size} numbers, the first update {size}")


def _checked(count: int, weights: Sequence[float] | None) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(count)
    checked = np.asarray(weights, dtype=np.float64)
    if checked.shape != (count,):
        raise BadWeight(f"{checked.size} weights for {count} updates")
    if not np.isfinite(checked).all() or (checked < 0).any() or not checked.any():
        raise BadWeight("weights are finite, not negative, and not all zero")
    return checked
