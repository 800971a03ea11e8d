"""Verdicts and threats over time, as pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta

from aegis.audit.report.charts import BARS_MAX
from aegis.cli.execution.drawing import Box, Drawing, Kind, Label
from aegis.cli.execution.stacks import Area, Column, Key, legend, ranking, stacks
from aegis.v1 import standing_pb2

Found = standing_pb2.GetReviewAnalyticsResponse

_WIDTH, _HEIGHT = 960, 430
_PLOT = Area(left=44, right=640, top=116, foot=380)
_SIDE, _SIDE_WIDTH = 690, 246
# Two lists right of the plot, one above the other.
_ROWS_MAX = 3
_SECOND = 268
_VERDICTS: tuple[Key, ...] = (("healed", "accepted"), ("failed", "rejected"), ("open", "held"))
_PLACES = (44, 144, 244)
# The kinds that come up most have a colour of their own, all others share one.
_COLOURS: tuple[Kind, ...] = ("failed", "prevented", "healed")
_OTHERS: Key = ("open", "others")
_KIND_WIDTH = 145
# So many are sent at most.
_THREATS_MAX = 200
_NAME_MAX, _KIND_MAX = 28, 16


def analytics_chart(found: Found) -> Drawing:
    """Returns verdicts by day, what rejected updates look like, and who found it."""
    columns = _days(found, _verdicts(found), len(_VERDICTS))
    parts = [
        *legend(_VERDICTS, _PLACES, 78),
        *stacks(columns, _VERDICTS, _PLOT, empty="nothing was judged", daily=True),
        *_list("Looks like", found.by_attack, 89, "failed"),
        *_list("Found by", found.by_examiner, _SECOND, "prevented"),
    ]
    return _drawing("Review", period(found), in_words(found), parts)


def security_chart(found: Found) -> Drawing:
    """Returns threats by day and kind, and whose updates they were."""
    updates = Counter[str]()
    for threat in found.threats:
        updates[threat.kind] += _size(threat)
    named = [kind for kind, _ in updates.most_common(len(_COLOURS))]
    keys: list[Key] = [*zip(_COLOURS, named, strict=False)]
    if len(updates) > len(named):
        keys.append(_OTHERS)
    told = [(colour, _short(words, _KIND_MAX)) for colour, words in keys]
    counts: dict[date, list[int]] = {}
    for threat in found.threats:
        day = counts.setdefault(threat.time.ToDatetime(UTC).date(), [0] * len(keys))
        day[named.index(threat.kind) if threat.kind in named else -1] += _size(threat)
    whose = Counter(name for threat in found.threats for name in threat.participants)
    rows = [Found.Count(key=name, judged=count) for name, count in whose.most_common()]
    parts = [
        *legend(told, [44 + _KIND_WIDTH * at for at in range(len(keys))], 78),
        *stacks(_days(found, counts, len(keys)), keys, _PLOT, empty="no threats", daily=True),
        *_list("Whose updates", rows, 89, "failed", most=8),
    ]
    newest = "the newest " if len(found.threats) == _THREATS_MAX else ""
    each = f"{sum(updates.values())} updates, proposals and blocked models"
    words = f"{each} in {newest}{len(found.threats)} threats"
    return _drawing("Threats", period(found), words, parts)


def period(found: Found) -> str:
    """Returns from when until when, UTC."""
    start, end = (each.ToDatetime(UTC) for each in (found.start, found.end))
    return f"{start:%Y-%m-%d} to {end:%Y-%m-%d %H:%M} UTC"


def in_words(found: Found) -> str:
    """Returns what became of the updates."""
    total = found.total
    if not total.judged:
        return "no update was judged"
    share = total.rejected / total.judged
    return (
        f"{total.judged:,} updates judged, {total.rejected:,} rejected ({share:.1%}),"
        f" {total.held:,} held, {total.overridden:,} decided by people"
    )


def _verdicts(found: Found) -> dict[date, list[int]]:
    return {
        date.fromisoformat(each.key): [each.accepted, each.rejected, each.held]
        for each in found.by_day
    }


def _days(found: Found, counts: dict[date, list[int]], width: int) -> list[Column]:
    """Returns a column for each day, or for so many that there are at most 92; gaps are columns."""
    if not counts:
        return []
    first, last = min(counts), max(counts)
    days = -(-((last - first).days + 1) // BARS_MAX)
    columns = []
    while first <= last:
        inside = [counts.get(first + timedelta(days=at), [0] * width) for at in range(days)]
        start = datetime(first.year, first.month, first.day, tzinfo=UTC)
        columns.append(Column(start, tuple(map(sum, zip(*inside, strict=True)))))
        first += timedelta(days=days)
    return columns


def _size(threat: Found.Threat) -> int:
    return max(1, len(threat.participants))


def _list(
    title: str, counts: Sequence[Found.Count], y: float, kind: Kind, *, most: int = _ROWS_MAX
) -> Iterator[Box | Label]:
    yield Label(_SIDE, y, title, "strong", size=13)
    if not counts:
        yield Label(_SIDE, y + 29, "nothing")
        return
    rows = [(_short(each.key, _NAME_MAX), each.judged) for each in counts[:most]]
    yield from ranking(rows, x=_SIDE, y=y + 17, width=_SIDE_WIDTH, kind=kind)
    if len(counts) > most:
        text = f"and {len(counts) - most} more"
        yield Label(_SIDE, y + 17 + 32 * most + 10, text)


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def _drawing(name: str, when: str, words: str, parts: Iterable[Box | Label]) -> Drawing:
    title = f"{name}, {when}"
    shapes = list(parts)
    return Drawing(
        _WIDTH,
        _HEIGHT,
        title,
        words,
        tuple(each for each in shapes if isinstance(each, Box)),
        (
            Label(20, 36, title, "title", size=20),
            Label(20, 60, words, size=13),
            *(each for each in shapes if isinstance(each, Label)),
        ),
    )
