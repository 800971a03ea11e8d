"""Bars and sparklines of block characters."""

from __future__ import annotations

from collections.abc import Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_TALL = " ▁▂▃▄▅▆▇█"


def bar(part: float, width: int) -> str:
    """Returns a bar that fills `part` (0 to 1) of `width` columns, to an eighth of one."""
    eighths = round(min(max(part, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    filled = "█" * whole + (_EIGHTHS[rest] if rest else "")
    return filled + "·" * (width - len(filled))


def spark(values: Sequence[int], most: int | None = None) -> str:
    """Returns one column a value, the tallest for `most`; whatever is more than 0 is seen."""
    top = max(most or 0, *values, 1) if values else 1
    return "".join(_TALL[-(-value * 8 // top)] for value in values)
