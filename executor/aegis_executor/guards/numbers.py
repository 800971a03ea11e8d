"""The guards' numbers: from a TOML file, with defaults, checked before anything starts.

A key that nothing reads is a guard somebody believes in and nobody has, so it fails the start.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from aegis_executor.guards.windows import Window

Table = TypeVar("Table")

_DAY_SECONDS = 86_400
# More rows than this are not loaded for one question.
HOURLY_MAX = 10_000


class NumbersError(ValueError):
    """The file cannot be used; the message names the key."""


def _number(default: Any, least: float, most: float, key: str = "") -> Any:
    return field(default=default, metadata={"least": least, "most": most, "key": key})


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrent:
    """How many actions may be under way at once."""

    target: int = _number(1, 1, 1)
    namespace: int = _number(2, 1, 1000)
    everywhere: int = _number(5, 1, 1000, "global")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hourly:
    """How many actions may begin in any hour."""

    target: int = _number(3, 1, HOURLY_MAX)
    namespace: int = _number(10, 1, HOURLY_MAX)
    everywhere: int = _number(30, 1, HOURLY_MAX, "global")


@dataclass(frozen=True, slots=True, kw_only=True)
class StormNumbers:
    """When so much is ill that the sensor or the network is the likelier cause."""

    share: float = _number(0.3, 0.01, 1)
    # One ill workload of two is no storm, it is what remediation is for.
    anomalous_min: int = _number(3, 1, 10_000)
    # So many times what is usual that fall ill within so many seconds.
    rate_factor: float = _number(5, 1, 10_000)
    rate_seconds: float = _number(300, 10, 3600)
    quiet_seconds: float = _number(300, 1, _DAY_SECONDS)
    ramp_seconds: float = _number(300, 1, _DAY_SECONDS)
    look_seconds: float = _number(5, 0.1, 300)
    grace_seconds: float = _number(30, 0, 3600)
    blind_seconds: float = _number(30, 1, 3600)
    ramp: tuple[int, ...] = (1, 2, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerNumbers:
    """How much may not help before nothing is tried any more."""

    consecutive: int = _number(2, 1, 100)
    share: float = _number(0.2, 0.01, 1)
    outcomes_min: int = _number(5, 1, 10_000)
    window_seconds: float = _number(3600, 60, _DAY_SECONDS)
    open_seconds: float = _number(900, 1, _DAY_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stricter:
    """What one namespace narrows; it can widen nothing."""

    concurrent: int = _number(1000, 1, 1000)
    hourly: int = _number(HOURLY_MAX, 1, HOURLY_MAX)
    attempts: int = _number(100, 1, 100)
    cool_down_seconds: float = _number(0, 0, _DAY_SECONDS)
    relapse_seconds: float = _number(0, 0, _DAY_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Every number a guard compares with; the defaults are those of a fresh installation."""

    cool_down_seconds: float = _number(600, 0, _DAY_SECONDS)
    relapse_seconds: float = _number(3600, 0, _DAY_SECONDS)
    attempts: int = _number(3, 1, 100)
    # What is older is forgotten, except what is under way and what a person has to look at.
    memory_seconds: float = _number(_DAY_SECONDS, 3600, 3 * _DAY_SECONDS)
    concurrent: Concurrent = Concurrent()
    hourly: Hourly = Hourly()
    storm: StormNumbers = StormNumbers()
    breakers: BreakerNumbers = BreakerNumbers()
    namespaces: Mapping[str, Stricter] = field(default_factory=dict)
    windows: tuple[Window, ...] = ()
    freezes: tuple[Window, ...] = ()

    @property
    def memory(self) -> timedelta:
        """How far back anything counts."""
        return timedelta(seconds=self.memory_seconds)

    def of(self, namespace: str) -> Stricter:
        """Returns what holds in a namespace: the most restrictive of both."""
        own = self.namespaces.get(namespace, Stricter())
        return Stricter(
            concurrent=min(own.concurrent, self.concurrent.namespace),
            hourly=min(own.hourly, self.hourly.namespace),
            attempts=min(own.attempts, self.attempts),
            cool_down_seconds=max(own.cool_down_seconds, self.cool_down_seconds),
            relapse_seconds=max(own.relapse_seconds, self.relapse_seconds),
        )

    @classmethod
    def of_file(cls, path: Path) -> Numbers:
        """Reads a TOML file; raises `NumbersError` naming the key that is unknown or impossible."""
        try:
            told = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise NumbersError(f"{path}: {error}") from error
        return cls.of_table(told)

    @classmethod
    def of_table(cls, told: Mapping[str, Any]) -> Numbers:
        """Reads what a file said; raises as `of_file`."""
        numbers = cls(
            **_numbers(cls, told, "", also=_TABLES),
            concurrent=Concurrent(**_numbers(Concurrent, _table(told, "concurrent"), "concurrent")),
            hourly=Hourly(**_numbers(Hourly, _table(told, "hourly"), "hourly")),
            storm=_storm(_table(told, "storm")),
            breakers=BreakerNumbers(
                **_numbers(BreakerNumbers, _table(told, "breakers"), "breakers")
            ),
            namespaces={
                name: Stricter(**_numbers(Stricter, table, f"namespaces.{name}"))
                for name, table in _table(told, "namespaces").items()
            },
            windows=_windows(told, "windows"),
            freezes=_windows(told, "freezes"),
        )
        _refuse_contradictions(numbers)
        return numbers


_TABLES = frozenset(
    {"concurrent", "hourly", "storm", "breakers", "namespaces", "windows", "freezes"}
)


def _table(told: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = told.get(key, {})
    if not isinstance(table, Mapping):
        raise NumbersError(f"{key} must be a table")
    return table


def _numbers(
    cls: type[Any], told: Any, path: str, also: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Returns the plain numbers of a table, by field name."""
    if not isinstance(told, Mapping):
        raise NumbersError(f"{path} must be a table")
    known = {
        each.metadata["key"] or each.name: each
        for each in dataclasses.fields(cls)
        if "least" in each.metadata
    }
    found = {}
    for key, value in told.items():
        name = f"{path}.{key}" if path else key
        if key in also:
            continue
        if key not in known:
            raise NumbersError(f"{name} is no key of the guards")
        found[known[key].name] = _checked(name, value, known[key])
    return found


def _checked(name: str, value: Any, wanted: dataclasses.Field[Any]) -> Any:
    least, most = wanted.metadata["least"], wanted.metadata["most"]
    kind = int if isinstance(wanted.default, int) and "seconds" not in wanted.name else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
        raise NumbersError(f"{name} must be {'a whole' if kind is int else 'a'} number")
    if not least <= value <= most:
        raise NumbersError(f"{name} must be from {least:g} to {most:g}, not {value:g}")
    return value


def _storm(told: Mapping[str, Any]) -> StormNumbers:
    found = _numbers(StormNumbers, told, "storm", also=frozenset({"ramp"}))
    if "ramp" not in told:
        return StormNumbers(**found)
    ramp = told["ramp"]
    rising = isinstance(ramp, list) and all(
        isinstance(pace, int) and not isinstance(pace, bool) and pace >= 1 for pace in ramp
    )
    if not rising or not 1 <= len(ramp) <= 10 or sorted(set(ramp)) != ramp:
        raise NumbersError("storm.ramp must be whole numbers of at least 1 that rise")
    return StormNumbers(ramp=tuple(ramp), **found)


def _windows(told: Mapping[str, Any], key: str) -> tuple[Window, ...]:
    listed = told.get(key, [])
    if not isinstance(listed, list):
        raise NumbersError(f"{key} must be a list of tables")
    found = []
    for number, table in enumerate(listed, start=1):
        try:
            found.append(Window.of_table(table))
        except ValueError as error:
            raise NumbersError(f"{key}[{number}].{error}") from error
    return tuple(found)


def _refuse_contradictions(numbers: Numbers) -> None:
    for name, levels in (("concurrent", numbers.concurrent), ("hourly", numbers.hourly)):
        if not levels.target <= levels.namespace <= levels.everywhere:
            raise NumbersError(f"{name}.target, {name}.namespace and {name}.global must not fall")
    for name, seconds in (
        ("cool_down_seconds", numbers.cool_down_seconds),
        ("relapse_seconds", numbers.relapse_seconds),
        ("breakers.window_seconds", numbers.breakers.window_seconds),
        ("breakers.open_seconds", numbers.breakers.open_seconds),
        *(
            (f"namespaces.{name}.{key}", getattr(own, key))
            for name, own in numbers.namespaces.items()
            for key in ("cool_down_seconds", "relapse_seconds")
        ),
    ):
        if seconds > numbers.memory_seconds:
            raise NumbersError(f"{name} is longer than memory_seconds, so it would be forgotten")
    if numbers.storm.blind_seconds < 2 * numbers.storm.look_seconds:
        raise NumbersError("storm.blind_seconds must be twice storm.look_seconds at least")
