"""Parts of pictures: stacked bars over time, what their colours mean, and a list of the most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count as counting

from aegis.cli.execution.drawing import Box, Kind, Label

# A colour and what it is for.
Key = tuple[Kind, str]
_BAR_MAX = 32
_LABELS_MAX = 8


@dataclass(frozen=True, slots=True)
class Area:
    """Where bars are drawn."""

    left: float
    right: float
    top: float
    foot: float


@dataclass(frozen=True, slots=True)
class Column:
    """One bar: when it begins, and a count for each key."""

    start: datetime
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """How high it is."""
        return sum(self.counts)


def ticks(most: int) -> list[int]:
    """Returns at most six round numbers from 0 to one that is not below `most`."""
    round_ones = (factor * 10**power for power in counting() for factor in (1, 2, 5))
    step = next(each for each in round_ones if each * 5 >= most)
    last = -(-max(most, 1) // step)
    return [step * each for each in range(last + 1)]


def stacks(
    columns: Sequence[Column],
    keys: Sequence[Key],
    area: Area,
    *,
    empty: str,
    daily: bool = False,
) -> Iterator[Box | Label]:
    """Yields the bars with their scale and times; without any, the words `empty`.

    Times are dates where columns are `daily` or spread over days, else hours.
    """
    scale = ticks(max((each.total for each in columns), default=0))
    height = area.foot - area.top
    for tick in scale:
        y = area.foot - height * tick / scale[-1]
        yield Box(area.left, y, area.right - area.left, 1, "line")
        yield Label(area.left - 8, y + 4, f"{tick:,}", anchor="end")
    if not columns:
        middle = (area.left + area.right) / 2
        yield Label(middle, (area.top + area.foot) / 2, empty, anchor="middle")
        return
    step = (area.right - area.left) / len(columns)
    for position, each in enumerate(columns):
        x = area.left + position * step
        yield from _bar(each, keys, x=x, step=step, foot=area.foot, unit=height / scale[-1])
    days = (columns[-1].start - columns[0].start).days >= 2
    shape = "%m-%d" if daily or days else "%H:%M"
    every = -(-len(columns) // _LABELS_MAX)
    for position in range(0, len(columns), every):
        x = area.left + (position + 0.5) * step
        yield Label(x, area.foot + 18, f"{columns[position].start:{shape}}", anchor="middle")


def _bar(
    column: Column, keys: Sequence[Key], *, x: float, step: float, foot: float, unit: float
) -> Iterator[Box]:
    width = min(step * 0.8, _BAR_MAX)
    for (kind, words), count in zip(keys, column.counts, strict=True):
        if not count:
            continue
        foot -= count * unit
        text = f"{column.start:%Y-%m-%d %H:%M}: {count} {words}"
        yield Box(x + (step - width) / 2, foot, width, count * unit, kind, text)


def legend(keys: Sequence[Key], places: Sequence[float], y: float) -> Iterator[Box | Label]:
    """Yields what each colour means, each at its place in one line."""
    for (kind, words), x in zip(keys, places, strict=True):
        yield Box(x, y, 12, 12, kind)
        yield Label(x + 18, y + 11, words)


def ranking(
    rows: Sequence[tuple[str, int]], *, x: float, y: float, width: float, kind: Kind
) -> Iterator[Box | Label]:
    """Yields a line and a bar for each name, in the order given; the longest is the first."""
    most = max((count for _, count in rows), default=0)
    for position, (name, count) in enumerate(rows):
        top = y + position * 32
        yield Label(x, top + 10, name)
        yield Label(x + width, top + 10, f"{count:,}", "strong", "end")
        yield Box(x, top + 15, width, 6, "line")
        yield Box(x, top + 15, width * count / max(most, 1), 6, kind)
