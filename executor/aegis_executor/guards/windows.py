"""When something may be done: maintenance windows, and freezes in which nothing may.

Times are those of a wall clock in a named zone. A window that ends before it begins ends on the
next day; `days` are those it begins on. Each day's window is turned into moments before anything
is compared, so an hour that comes twice, or never, opens nothing a second time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from aegis_executor.catalogue.base import Gate
from aegis_executor.guards.gates import passes

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = timedelta(days=1)
_KEYS = frozenset({"name", "namespaces", "days", "from", "to", "zone"})


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of wall-clock time on some days of the week.

    For all namespaces, and for what has none, when `namespaces` is empty. `begins` and `ends`
    being the same is a whole day.
    """

    name: str
    namespaces: frozenset[str]
    days: frozenset[int]
    begins: time
    ends: time
    zone: ZoneInfo

    @classmethod
    def of_table(cls, told: Any) -> Window:
        """Reads a table of the guards' file; raises ValueError beginning with the key."""
        if not isinstance(told, Mapping):
            raise ValueError("name: must be a table")
        for key in told:
            if key not in _KEYS:
                raise ValueError(f"{key} is no key of a window")
        name = told.get("name")
        if not isinstance(name, str) or not name:
            raise ValueError("name must be a text")
        days = _texts(told, "days", DAYS)
        for day in days:
            if day not in DAYS:
                raise ValueError(f"days: {day} is none of {', '.join(DAYS)}")
        if not days:
            raise ValueError("days names no day, so it would never be")
        return cls(
            name,
            frozenset(_texts(told, "namespaces", ())),
            frozenset(DAYS.index(day) for day in days),
            _time(told, "from"),
            _time(told, "to"),
            _zone(told),
        )

    def applies(self, namespace: str) -> bool:
        """True when it says something about a namespace."""
        return not self.namespaces or namespace in self.namespaces

    def spans(self, now: datetime, *, wide: bool) -> list[tuple[datetime, datetime]]:
        """Returns when it begins and ends around a moment and up to 8 days after.

        `wide` counts an hour that comes twice both times: a freeze must not thaw in between.
        """
        today = now.astimezone(self.zone).date()
        spans = []
        for day in (today + offset * _DAY for offset in range(-2, 9)):
            if day.weekday() not in self.days:
                continue
            last = day if self.begins < self.ends else day + _DAY
            spans.append(
                (
                    min(self._moments(day, self.begins, wide)),
                    max(self._moments(last, self.ends, wide)),
                )
            )
        return spans

    def holds(self, now: datetime, *, wide: bool = False) -> bool:
        """True inside."""
        return any(begins <= now < ends for begins, ends in self.spans(now, wide=wide))

    def _moments(self, day: date, clock: time, wide: bool) -> list[datetime]:
        folds = (0, 1) if wide else (0,)
        return [
            datetime.combine(day, clock.replace(fold=fold), self.zone).astimezone(UTC)
            for fold in folds
        ]


def window_gates(
    namespace: str, windows: Iterable[Window], freezes: Iterable[Window], now: datetime
) -> list[Gate]:
    """Inside one of the windows of a namespace, if it has any, and in none of its freezes.

    Nodes carry every namespace's pods, so each freeze is theirs, too.
    """
    freezing = [each for each in freezes if each.applies(namespace) or not namespace]
    frozen = [each for each in freezing if each.holds(now, wide=True)]
    mine = [each for each in windows if each.applies(namespace)]
    freeze = passes("freeze", f"none of {len(freezing)} freezes holds")
    if frozen:
        thaws = [thaws_at(each, now) for each in frozen]
        at = None if None in thaws else max(filter(None, thaws))
        name = frozen[0].name
        freeze = Gate(
            "freeze", False, "WINDOW_CLOSED", f"freeze {name} holds", at, {"window": name}
        )
    window = passes("window", "no maintenance window to wait for" if not mine else "open")
    if mine and not any(each.holds(now) for each in mine):
        names = ", ".join(each.name for each in mine)
        message = f"outside of {names}"
        at = opens_at(mine, now)
        window = Gate("window", False, "WINDOW_CLOSED", message, at, {"window": names})
    return [freeze, window]


def opens_at(windows: Iterable[Window], now: datetime) -> datetime | None:
    """Returns when the first of these opens next."""
    starts = [begins for each in windows for begins, _ in each.spans(now, wide=False)]
    return min((begins for begins in starts if begins > now), default=None)


def thaws_at(freeze: Window, now: datetime) -> datetime | None:
    """Returns the first moment from now at which a freeze does not hold."""
    moment = now
    for begins, ends in sorted(freeze.spans(now, wide=True)):
        if begins <= moment < ends:
            moment = ends
    # One that begins as it ends never thaws, as far as we looked.
    return None if freeze.holds(moment, wide=True) else moment


def _texts(told: Mapping[str, Any], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = told.get(key, list(default))
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{key} must be a list of texts")
    return tuple(value)


def _time(told: Mapping[str, Any], key: str) -> time:
    value = told.get(key)
    if not isinstance(value, str) or not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        raise ValueError(f'{key} must be a time such as "22:00"')
    return time.fromisoformat(value)


def _zone(told: Mapping[str, Any]) -> ZoneInfo:
    value = told.get("zone", "UTC")
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise ValueError(f"zone: {value} is not known here") from error
