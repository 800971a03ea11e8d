"""The self-healing report as a picture: actions over time, and which guard refused how often."""

from __future__ import annotations

from collections.abc import Iterator

from aegis.audit.report.charts import BARS_MAX
from aegis.cli.execution.drawing import Box, Drawing, Label
from aegis.cli.execution.healing import Report, Slice, in_words, period, refusals, slices
from aegis.cli.execution.stacks import Area, Column, Key, legend, ranking, stacks

_WIDTH, _HEIGHT = 960, 430
# The plot of actions over time, and the column of refusals right of it.
_PLOT = Area(left=44, right=640, top=116, foot=380)
_SIDE, _SIDE_WIDTH = 690, 246
_REFUSALS_MAX = 8
_KEYS: tuple[Key, ...] = (
    ("healed", "healed"),
    ("failed", "failed or did not help"),
    ("prevented", "prevented"),
    ("open", "open"),
)
_PLACES = (44, 134, 294, 394)


def chart(report: Report) -> Drawing:
    """Returns the picture."""
    columns = [_column(each) for each in slices(report, BARS_MAX)]
    title = f"Self-healing, {period(report)}"
    parts = [
        Label(20, 36, title, "title", size=20),
        Label(20, 60, in_words(report), size=13),
        *legend(_KEYS, _PLACES, 78),
        *stacks(columns, _KEYS, _PLOT, empty="no actions"),
        *_side(report),
    ]
    return Drawing(
        _WIDTH,
        _HEIGHT,
        title,
        in_words(report),
        tuple(each for each in parts if isinstance(each, Box)),
        tuple(each for each in parts if isinstance(each, Label)),
    )


def _column(each: Slice) -> Column:
    return Column(each.start, (each.healed, each.failed, each.prevented, each.open))


def _side(report: Report) -> Iterator[Box | Label]:
    yield Label(_SIDE, 89, "Refused by", "strong", size=13)
    found = [(reason.lower().replace("_", " "), count) for reason, count in refusals(report)]
    if not found:
        yield Label(_SIDE, _PLOT.top + 12, "nothing was refused")
        return
    shown = found[:_REFUSALS_MAX]
    yield from ranking(shown, x=_SIDE, y=_PLOT.top, width=_SIDE_WIDTH, kind="prevented")
    if len(found) > _REFUSALS_MAX:
        rest = sum(count for _, count in found[_REFUSALS_MAX:])
        yield Label(_SIDE, _PLOT.foot + 18, f"and {rest:,} more by other checks")
