"""Order statistics of every column: sorted values, and means of those between two ranks.

Up to 56 updates go through a sorting network (Batcher's merge exchange, Knuth, The Art of Computer
Programming 3, 5.2.2M): a comparator is one minimum and one maximum of two whole rows, which the
processor does for 16 columns at once, and comparators that only order values nobody asks for are
left out. More than that are turned on their side and sorted one column after the other. Both work
on blocks that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from aegis_learning.aggregation.updates import Rows, Updates
from aegis_learning.parameters import Array

# From here on sorting columns is faster than the network, whose size grows with n·log²n.
_NETWORK_MOST = 56
_WIDTH_NETWORK = 1 << 15
_WIDTH_SORT = 1 << 13
# Rows a power of two apart would all want the same few lines of the cache.
_PAD = 16


class Comparator(NamedTuple):
    """Puts the smaller of two wires on the first, if anybody needs it, the larger on the second."""

    first: int
    second: int
    smaller: bool
    larger: bool


@lru_cache(maxsize=64)
def network(count: int, low: int, high: int, *, ordered: bool) -> tuple[Comparator, ...]:
    """Returns comparators that bring the values of rank low to high on the wires low to high.

    Which of them is on which wire is only decided when they are to be `ordered`.
    """
    kinds = [-1 if wire < low else count if wire > high else wire for wire in range(count)]
    if not ordered:
        kinds = [low if low <= kind <= high else kind for kind in kinds]
    untouched = [True] * count
    kept: list[Comparator] = []
    for first, second in reversed(_merge_exchange(count)):
        if untouched[first] and untouched[second] and kinds[first] == kinds[second]:
            continue  # it would only order values among their own kind
        smaller, larger = (
            not untouched[wire] or 0 <= kinds[wire] < count for wire in (first, second)
        )
        if smaller or larger:
            kept.append(Comparator(first, second, smaller, larger))
            untouched[first] = untouched[second] = False
    return tuple(reversed(kept))


def _merge_exchange(count: int) -> list[tuple[int, int]]:
    pairs = []
    p = top = 1 << max(count - 1, 1).bit_length() - 1
    while p > 0:
        q, r, d = top, 0, p
        while d > 0:
            pairs += [(i, i + d) for i in range(count - d) if i & p == r]
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return pairs


class Columns:
    """A workspace for blocks of `count` rows: the ranks low to high of every column."""

    def __init__(self, updates: Updates, low: int, high: int) -> None:
        self._updates = updates
        self._count, self._low, self._high = updates.count, low, high
        self._small = updates.count <= _NETWORK_MOST
        self.width = _WIDTH_NETWORK if self._small else _WIDTH_SORT
        width = min(self.width, updates.size)
        self._rows = np.zeros((updates.count + 1, width + _PAD), np.float32)
        self._sideways = np.empty((0 if self._small else width, updates.count), np.float32)

    def mean(self, rows: Rows, out: Array) -> None:
        """Writes the mean of those ranks to `out`; raises `NotFinite` or `Overflow`."""
        wires = self._copied(rows)
        if self._small:
            self._run(wires, ordered=False)
            mean_of(wires[self._low : self._high + 1], out)
            return
        middle = self._sort(rows[0].size)[:, self._low : self._high + 1]
        if middle.shape[1] <= 2:
            mean_of(list(middle.T), out)
            return
        np.add.reduce(middle, axis=1, out=out)
        out /= np.float32(middle.shape[1])
        if not np.isfinite(out).all():
            np.add.reduce(middle / np.float32(middle.shape[1]), axis=1, out=out)

    def sorted(self, rows: Rows) -> Rows:
        """Returns those ranks, smallest first; they are good until the next call."""
        wires = self._copied(rows)
        if self._small:
            self._run(wires, ordered=True)
        else:
            size = rows[0].size
            np.copyto(self._rows[: self._count, :size], self._sort(size).T)
        return wires[self._low : self._high + 1]

    def _copied(self, rows: Rows) -> Rows:
        size = rows[0].size
        for into, row in zip(self._rows, rows, strict=False):
            into[:size] = row
        # A product that is finite has finite factors; one that is not may only be large. What is
        # behind the rows was finite in the block before.
        whole = self._rows[: self._count].reshape(-1)
        if not np.isfinite(np.dot(whole, whole)):
            self._updates.require_finite(rows)
        return [row[:size] for row in self._rows[: self._count]]

    def _run(self, wires: Rows, *, ordered: bool) -> None:
        spare = self._rows[self._count][: wires[0].size]
        for first, second, smaller, larger in network(
            self._count, self._low, self._high, ordered=ordered
        ):
            x, y = wires[first], wires[second]
            if not larger:
                np.minimum(x, y, out=x)
            elif not smaller:
                np.maximum(x, y, out=y)
            else:
                np.minimum(x, y, out=spare)
                np.maximum(x, y, out=y)
                wires[first], spare = spare, x

    def _sort(self, size: int) -> Array:
        sideways = self._sideways[:size]
        np.copyto(sideways, self._rows[: self._count, :size].T)
        sideways.sort(axis=1)
        return sideways


def mean_of(rows: Sequence[Array], out: Array) -> None:
    """Writes the mean of finite rows to `out`; it is finite, too."""
    number = np.float32(len(rows))
    np.copyto(out, rows[0])
    for row in rows[1:]:
        np.add(out, row, out=out)
    out /= number
    if not np.isfinite(out).all():
        np.divide(rows[0], number, out=out)
        for row in rows[1:]:
            out += row / number


def means(updates: Updates, low: int, high: int) -> Array:
    """Returns, for each column, the mean of the values of rank low to high, counted from 0."""
    columns = Columns(updates, low, high)
    result = np.empty(updates.size, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for start, rows in updates.blocks(columns.width):
            columns.mean(rows, result[start : start + rows[0].size])
    return result
