"""When a rule holds: periods, and hours of the week in a time zone.

A window answers two questions about an instant: does it contain it, and when does that answer
change next. The second makes cached decisions safe: they end before the clock could overturn them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_MINUTES = 24 * 60
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")


@dataclass(frozen=True, slots=True)
class Period:
    """The instants from `begin` until just before `end`."""

    begin: datetime
    end: datetime

    @classmethod
    def parse(cls, begin: str, end: str) -> Period:
        """Reads two ISO 8601 instants with offset; raises ValueError in words for people."""
        period = cls(_instant(begin), _instant(end))
        if period.end <= period.begin:
            raise ValueError("the end has to be after the beginning")
        return period

    def contains(self, instant: datetime) -> bool:
        """Says whether the instant is inside."""
        return self.begin <= instant < self.end

    def next_change(self, instant: datetime) -> datetime | None:
        """Returns the first later instant at which `contains` changes; None when it never will."""
        return next((edge for edge in (self.begin, self.end) if instant < edge), None)


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f'{text!r} is not a time such as "2026-03-01T08:00:00Z"') from None
    if instant.tzinfo is None:
        raise ValueError(f'{text!r} lacks its zone: write "Z" or an offset')
    return instant.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Weekly:
    """Hours of some days of the week, as the clocks on the wall of `zone` show them.

    `begin` and `end` are minutes of the day. An `end` at or before `begin` lies on the next day,
    so ("Fri", 22:00, 06:00) ends on Saturday morning. Where clocks are put forward or back the
    wall still decides: an hour that is shown twice counts twice, one that is skipped not at all.
    """

    days: frozenset[int]
    begin: int
    end: int
    zone: ZoneInfo

    @classmethod
    def parse(cls, days: str, begin: str, end: str, zone: str) -> Weekly:
        """Reads ("Mon-Fri", "09:00", "17:30", "Europe/Berlin"); raises ValueError as `Period`."""
        weekly = cls(_days(days), _minutes(begin), _minutes(end), _zone(zone))
        if weekly.begin == _DAY_MINUTES or weekly.begin == weekly.end:
            raise ValueError(f"no window goes from {begin} to {end}")
        if len(weekly.days) == len(_DAYS) and (weekly.begin - weekly.end) % _DAY_MINUTES == 0:
            raise ValueError("this window never closes")
        return weekly

    def contains(self, instant: datetime) -> bool:
        """Says whether the wall clock is inside at this instant."""
        local = instant.astimezone(self.zone)
        minute, today = local.hour * 60 + local.minute, local.weekday()
        if self.begin < self.end:
            return today in self.days and self.begin <= minute < self.end
        yesterday = (today - 1) % len(_DAYS)
        return (today in self.days and minute >= self.begin) or (
            yesterday in self.days and minute < self.end
        )

    def next_change(self, instant: datetime) -> datetime:
        """Returns the first later instant at which `contains` changes."""
        inside = self.contains(instant)
        edge = self._next_edge(instant)
        while self.contains(edge) == inside:
            edge = self._next_edge(edge)
        return edge

    def _next_edge(self, instant: datetime) -> datetime:
        """Returns the next instant at which the wall shows `begin` or `end`, or jumps."""
        local = instant.astimezone(self.zone)
        offset = local.utcoffset()
        wall = local.replace(tzinfo=None, fold=0)
        midnight = datetime.combine(wall, time.min)
        walls = (
            midnight + timedelta(days=day, minutes=minute % _DAY_MINUTES)
            for day in (0, 1)
            for minute in (self.begin, self.end)
        )
        step = min(candidate - wall for candidate in walls if candidate > wall)
        edge = instant.astimezone(UTC) + step
        return edge if self._offset(edge) == offset else self._jump(instant.astimezone(UTC), edge)

    def _jump(self, before: datetime, after: datetime) -> datetime:
        """Returns the first second between the two at which the zone's offset is another one."""
        offset = self._offset(before)
        low, high = int(before.timestamp()), int(after.timestamp()) + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._offset(datetime.fromtimestamp(middle, UTC)) == offset:
                low = middle
            else:
                high = middle
        return datetime.fromtimestamp(high, UTC)

    def _offset(self, instant: datetime) -> timedelta | None:
        return instant.astimezone(self.zone).utcoffset()


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if first not in _DAYS or (last if dash else first) not in _DAYS:
            raise ValueError(f'{text!r} is not a list of days such as "Mon-Fri" or "Sat,Sun"')
        begin, end = _DAYS.index(first), _DAYS.index(last if dash else first)
        days.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(days)


def _minutes(text: str) -> int:
    if _CLOCK.fullmatch(text) is None:
        raise ValueError(f'{text!r} is not a time of day from "00:00" to "24:00"')
    return int(text[:2]) * 60 + int(text[3:])


def _zone(text: str) -> ZoneInfo:
    try:
        # The pattern keeps the name from leaving the time zone folder.
        if _ZONE.fullmatch(text):
            return ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        pass
    raise ValueError(f'{text!r} is not a time zone such as "Europe/Berlin"')
