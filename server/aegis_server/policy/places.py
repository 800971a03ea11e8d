"""Where lines stand: numbers with room between them, so that a change touches what it changes.

A line keeps its place while it stays. One that comes between two others takes the middle; only
when there is no room left is the whole file placed anew. A step from one revision to another is
then a few places that were left and a few that were taken, however long the file is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from aegis_policy import Line

STRIDE = 2**20


class Placed(NamedTuple):
    """A line and its place. Places count from 1."""

    place: int
    line: Line


class Slot(NamedTuple):
    """A line and the place it keeps, or None for one that needs a place."""

    place: int | None
    line: Line


class Step(NamedTuple):
    """What leads from one revision to another: first places are left, then taken."""

    removed: list[int]
    added: list[Placed]


def identity_of(line: Line) -> tuple[str, ...]:
    """Returns what makes it that line and no other: a rule's id, or all of a binding."""
    if line.kind == "p" and line.fields:
        return ("p", line.fields[-1])
    return (line.kind, *line.fields)


def step(before: Iterable[Placed], after: Iterable[Placed]) -> Step:
    """Returns what was removed and added."""
    old: Mapping[int, Line] = dict(before)
    new: Mapping[int, Line] = dict(after)
    return Step(
        [place for place, line in old.items() if new.get(place) != line],
        [Placed(place, line) for place, line in new.items() if old.get(place) != line],
    )


def arranged(before: Sequence[Placed], after: Sequence[Line]) -> list[Placed]:
    """Returns lines with their places; those that were there before and stay, stay where they are.

    Beginning and end that are the same are passed over; between them lines are known again by
    `identity_of`, and the most that keep their order keep their places.
    """
    length = min(len(before), len(after))
    head = next((at for at in range(length) if before[at].line != after[at]), length)
    length -= head
    tail = next((at for at in range(length) if before[-1 - at].line != after[-1 - at]), length)
    slots = [Slot(*placed) for placed in before[:head]]
    slots += _recognised(before[head : len(before) - tail], after[head : len(after) - tail])
    slots += [Slot(*placed) for placed in before[len(before) - tail :]]
    return filled(slots)


def _recognised(before: Sequence[Placed], after: Sequence[Line]) -> list[Slot]:
    known = {identity_of(placed.line): at for at, placed in enumerate(before)}
    found = [known.get(identity_of(line), -1) for line in after]
    staying = _longest_rise(found)
    return [
        Slot(before[at].place if index in staying else None, line)
        for index, (at, line) in enumerate(zip(found, after, strict=True))
    ]


def _longest_rise(numbers: Sequence[int]) -> set[int]:
    """Returns the indices of a longest strictly rising subsequence, negative numbers left out."""
    ends: list[int] = []
    at_end: list[int] = []
    behind: dict[int, int] = {}
    for index, number in enumerate(numbers):
        if number < 0:
            continue
        length = bisect_left(ends, number)
        if length:
            behind[index] = at_end[length - 1]
        ends[length : length + 1] = [number]
        at_end[length : length + 1] = [index]
    rising = set()
    index = at_end[-1] if at_end else -1
    while index >= 0:
        rising.add(index)
        index = behind.get(index, -1)
    return rising


def filled(slots: Sequence[Slot]) -> list[Placed]:
    """Gives every line a place, or all of them new ones when there is no room between two."""
    placed: list[Placed] = []
    waiting: list[Line] = []
    last = 0
    for slot in slots:
        if slot.place is None:
            waiting.append(slot.line)
            continue
        gap = (slot.place - last) // (len(waiting) + 1)
        if gap == 0:
            return fresh(slot.line for slot in slots)
        placed += _every(gap, last, waiting)
        placed.append(Placed(slot.place, slot.line))
        waiting, last = [], slot.place
    return placed + _every(STRIDE, last, waiting)


def fresh(lines: Iterable[Line]) -> list[Placed]:
    """Places a whole file."""
    return _every(STRIDE, 0, lines)


def _every(gap: int, last: int, lines: Iterable[Line]) -> list[Placed]:
    return [Placed(last + gap * number, line) for number, line in enumerate(lines, start=1)]
