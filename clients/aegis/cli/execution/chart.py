"""The self-healing report as a picture: actions over time, and which guard refused how often."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count as counting

from aegis.audit.report.charts import BARS_MAX
from aegis.cli.execution.drawing import Box, Drawing, Kind, Label
from aegis.cli.execution.healing import Report, Slice, in_words, period, refusals, slices

_WIDTH, _HEIGHT = 960, 430
# The plot of actions over time, and the column of refusals right of it.
_LEFT, _RIGHT, _TOP, _FOOT = 44, 640, 116, 380
_SIDE, _SIDE_WIDTH = 690, 246
_REFUSALS_MAX = 8
_KINDS: tuple[tuple[Kind, str], ...] = (
    ("healed", "healed"),
    ("failed", "failed or did not help"),
    ("prevented", "prevented"),
    ("open", "open"),
)


def chart(report: Report) -> Drawing:
    """Returns the picture."""
    found = slices(report, BARS_MAX)
    parts = [*_plot(found), *_side(report)]
    title = f"Self-healing, {period(report)}"
    head = (
        Label(20, 36, title, "title", size=20),
        Label(20, 60, in_words(report), size=13),
        *_key_labels(),
    )
    return Drawing(
        _WIDTH,
        _HEIGHT,
        title,
        in_words(report),
        (*_key_boxes(), *(each for each in parts if isinstance(each, Box))),
        (*head, *(each for each in parts if isinstance(each, Label))),
    )


def ticks(most: int) -> list[int]:
    """Returns at most six round numbers from 0 to one that is not below `most`."""
    round_ones = (factor * 10**power for power in counting() for factor in (1, 2, 5))
    step = next(each for each in round_ones if each * 5 >= most)
    last = -(-max(most, 1) // step)
    return [step * each for each in range(last + 1)]


def _plot(found: list[Slice]) -> Iterator[Box | Label]:
    scale = ticks(max((each.total for each in found), default=0))
    height = _FOOT - _TOP
    for tick in scale:
        y = _FOOT - height * tick / scale[-1]
        yield Box(_LEFT, y, _RIGHT - _LEFT, 1, "line")
        yield Label(_LEFT - 8, y + 4, f"{tick:,}", anchor="end")
    if not found:
        yield Label((_LEFT + _RIGHT) / 2, (_TOP + _FOOT) / 2, "no actions", anchor="middle")
        return
    step = (_RIGHT - _LEFT) / len(found)
    for position, each in enumerate(found):
        yield from _bar(each, _LEFT + position * step, step, height / scale[-1])
    days = (found[-1].start - found[0].start).days >= 2
    shape = "%m-%d" if days else "%H:%M"
    every = -(-len(found) // 8)
    for position in range(0, len(found), every):
        x = _LEFT + (position + 0.5) * step
        text = f"{found[position].start:{shape}}"
        yield Label(x, _FOOT + 18, text, anchor="middle")


def _bar(each: Slice, x: float, step: float, unit: float) -> Iterator[Box]:
    width = min(step * 0.8, 32)
    foot = float(_FOOT)
    for kind, words in _KINDS:
        count: int = getattr(each, kind)
        if not count:
            continue
        foot -= count * unit
        text = f"{each.start:%Y-%m-%d %H:%M}: {count} {words}"
        yield Box(x + (step - width) / 2, foot, width, count * unit, kind, text)


def _key_boxes() -> Iterator[Box]:
    for position, (kind, _) in enumerate(_KINDS):
        yield Box(_key(position), 78, 12, 12, kind)


def _key_labels() -> Iterator[Label]:
    for position, (_, words) in enumerate(_KINDS):
        yield Label(_key(position) + 18, 89, words)


def _key(position: int) -> float:
    return _LEFT + (0, 90, 250, 350)[position]


def _side(report: Report) -> Iterator[Box | Label]:
    yield Label(_SIDE, 89, "Refused by", "strong", size=13)
    found = refusals(report)
    if not found:
        yield Label(_SIDE, _TOP + 12, "nothing was refused")
        return
    most, row = found[0][1], 32
    for position, (reason, count) in enumerate(found[:_REFUSALS_MAX]):
        y = _TOP + position * row
        yield Label(_SIDE, y + 10, reason.lower().replace("_", " "))
        yield Label(_SIDE + _SIDE_WIDTH, y + 10, f"{count:,}", "strong", "end")
        yield Box(_SIDE, y + 15, _SIDE_WIDTH, 6, "line")
        yield Box(_SIDE, y + 15, _SIDE_WIDTH * count / max(most, 1), 6, "prevented")
    if len(found) > _REFUSALS_MAX:
        rest = sum(count for _, count in found[_REFUSALS_MAX:])
        yield Label(_SIDE, _FOOT + 18, f"and {rest:,} more by other checks")
