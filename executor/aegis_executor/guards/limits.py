"""How many at once, how many an hour, how soon again, how often for one incident."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from aegis_executor.catalogue.base import Gate
from aegis_executor.guards.gates import Asked, passes
from aegis_executor.guards.history import Deed, History
from aegis_executor.guards.numbers import Numbers, Stricter

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Level:
    """One scope a limit is counted in."""

    name: str
    inside: Callable[[Deed], bool]
    concurrent: int
    hourly: int


def levels(namespace: str, target: tuple[str, str, str], numbers: Numbers) -> tuple[Level, ...]:
    """Returns the scopes of a target, the narrowest first."""
    here = numbers.of(namespace)
    return (
        Level(
            "target",
            lambda deed: deed.target == target,
            numbers.concurrent.target,
            min(numbers.hourly.target, here.hourly),
        ),
        Level(
            f"namespace {namespace}" if namespace else "nodes",
            lambda deed: deed.namespace == namespace,
            here.concurrent,
            here.hourly,
        ),
        Level(
            "global", lambda deed: True, numbers.concurrent.everywhere, numbers.hourly.everywhere
        ),
    )


def _levels_of(asked: Asked, numbers: Numbers) -> tuple[Level, ...]:
    return levels(asked.place.namespace, asked.target, numbers)


def target_lock(asked: Asked, history: History, numbers: Numbers) -> Gate:
    """One at a time at one object; who broke the glass waits, too."""
    return _concurrent(_levels_of(asked, numbers)[0], history)


def concurrency(asked: Asked, history: History, numbers: Numbers) -> list[Gate]:
    """So many under way in a namespace and altogether."""
    return [_concurrent(level, history) for level in _levels_of(asked, numbers)[1:]]


def _concurrent(level: Level, history: History) -> Gate:
    used = sum(level.inside(deed) for deed in history.under_way)
    name, limit = f"concurrent.{level.name}", level.concurrent
    message = f"{used} under way of {limit} at once"
    if used < limit:
        return passes(name, message)
    metadata = {"scope": level.name, "used": str(used), "limit": str(limit)}
    return Gate(name, False, "TARGET_BUSY", message, None, metadata)


def hourly(asked: Asked, history: History, numbers: Numbers) -> list[Gate]:
    """So many begun in any hour."""
    return [_hourly(level, history) for level in _levels_of(asked, numbers)]


def begun(level: Level, history: History) -> tuple[int, datetime | None]:
    """Returns how many were begun within the hour, and when one is free again if none is now."""
    since = history.now - HOUR
    times = sorted(
        (deed.at for deed in history.deeds if deed.at > since and level.inside(deed)),
        reverse=True,
    )
    # It is the limit-th newest that has to leave the window.
    free_at = times[level.hourly - 1] + HOUR if len(times) >= level.hourly else None
    return len(times), free_at


def _hourly(level: Level, history: History) -> Gate:
    used, free_at = begun(level, history)
    name, limit = f"hour.{level.name}", level.hourly
    message = f"{used} begun of {limit} an hour"
    if free_at is None:
        return passes(name, message)
    metadata = {"scope": level.name, "used": str(used), "limit": str(limit)}
    return Gate(name, False, "BUDGET_EXHAUSTED", message, free_at, metadata)


def cool_down(asked: Asked, history: History, numbers: Numbers) -> Gate:
    """The same to the same target takes a while before it can be judged, and before it is news."""
    target, wait = asked.target, numbers.of(asked.place.namespace).cool_down_seconds
    same = (
        deed.at
        for deed in history.deeds
        if deed.counts and deed.target == target and deed.verb == asked.verb
    )
    last = max(same, default=None)
    if last is None or history.now - last >= timedelta(seconds=wait):
        return passes("cool_down", f"not done to it within {wait:g} s")
    ago = (history.now - last).total_seconds()
    message = f"done to it {max(0.0, ago):.0f} s ago, cools down for {wait:g} s"
    again_at = last + timedelta(seconds=wait)
    return Gate("cool_down", False, "COOLING_DOWN", message, again_at, {"scope": "target"})


def attempts(asked: Asked, history: History, numbers: Numbers) -> Gate:
    """So many for one incident, whether or not one of them seemed to help."""
    here = numbers.of(asked.place.namespace)
    used = len(incident(asked, history.deeds, history.now, here))
    message = f"{used} attempts of {here.attempts} for this incident"
    if used < here.attempts:
        return passes("attempts", message)
    metadata = {
        "incident": asked.incident_id or "/".join(part for part in asked.target if part),
        "used": str(used),
        "limit": str(here.attempts),
    }
    return Gate("attempts", False, "ATTEMPTS_EXHAUSTED", message, None, metadata)


def incident(asked: Asked, deeds: Sequence[Deed], now: datetime, here: Stricter) -> list[Deed]:
    """Returns what was done for the same trouble: by its name, or to the same target.

    It is over when something helped and nothing came back within the relapse window. What never
    helped, or took all its attempts, is not over by waiting; it is forgotten with everything else.
    """
    relapse, found = timedelta(seconds=here.relapse_seconds), list[Deed]()

    def over(at: datetime) -> bool:
        if not found or len(found) >= here.attempts:
            return False
        return found[-1].good and at - found[-1].over_at > relapse

    target = asked.target

    def same(deed: Deed) -> bool:
        named = bool(asked.incident_id) and deed.incident_id == asked.incident_id
        return deed.counts and (named or deed.target == target)

    for deed in sorted(filter(same, deeds), key=lambda deed: deed.at):
        if over(deed.at):
            found = []
        found.append(deed)
    return [] if over(now) else found
