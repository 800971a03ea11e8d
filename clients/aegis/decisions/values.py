"""What goes in and comes out: decisions, how new their rules must be, attributes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from aegis.errors import FieldViolation, InvalidArgument, Unavailable

DEFAULT_DOMAIN = "aegis"

# As the server has them (aegis_server/policy): what is refused there is refused here.
_ATTRIBUTES_MAX = 64
_DEPTH_MAX = 16
# A message holds 256 KiB; with this much in attributes, a decision still fits into a report.
_ATTRIBUTE_BYTES_MAX = 128 * 1024
_VALUE_BYTES = 16
# Above it a double, which is what travels, knows no odd numbers any more.
_EXACT_MAX = 2**53


class Decision(NamedTuple):
    """An answer with its grounds. `rule_id` is empty when no rule allowed.

    Without a new revision the answer stays the same until `valid_until`; None means for ever.
    """

    allowed: bool
    rule_id: str
    revision: int
    decision_id: str
    valid_until: datetime | None

    def __bool__(self) -> bool:
        # A tuple that says no would otherwise be true to an `if`.
        return self.allowed


class StaleSnapshot(Unavailable):
    """What is known here is older than the caller's bound; infinitely when nothing is known."""

    def __init__(self, age_seconds: float, bound_seconds: float, problem: str = "") -> None:
        known = (
            f"the rules known here are from {age_seconds:.1f} s ago"
            if math.isfinite(age_seconds)
            else "no rules are known here yet"
        )
        super().__init__(
            "POLICY_UNUSABLE",
            f"{known}; the bound is {bound_seconds:g} s" + (f": {problem}" if problem else ""),
            age_seconds=f"{age_seconds:.1f}",
        )
        self.age_seconds = age_seconds


@dataclass(frozen=True, slots=True)
class AtLeast:
    """Asks for this revision or a later one."""

    revision: int


@dataclass(frozen=True, slots=True)
class FullyCurrent:
    """Asks for the newest revision there is at this moment."""


FULLY_CURRENT = FullyCurrent()


def bad(field: str, description: str) -> InvalidArgument:
    """Returns the server's error for a field that cannot be as it is."""
    violation = FieldViolation(field, description)
    return InvalidArgument("FIELD_INVALID", f"{field}: {description}", violations=[violation])


def cleaned(attributes: Mapping[str, object]) -> dict[str, Any]:
    """Returns a copy as the server would read it; raises `InvalidArgument` (FIELD_INVALID)."""
    if len(attributes) > _ATTRIBUTES_MAX:
        raise bad("attributes", f"at most {_ATTRIBUTES_MAX} names")
    reader = _Reader()
    try:
        return reader.mapping(attributes, _DEPTH_MAX)
    except _Unfit as error:
        raise bad("attributes" + "".join(reversed(error.path)), error.expected) from None


class _Unfit(Exception):
    """Raised deep inside; each level that it passes on its way out adds its part of the path."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected
        self.path: list[str] = []


class _Reader:
    """Reads the attributes of one question, and knows how much they may still be."""

    def __init__(self) -> None:
        self._left = _ATTRIBUTE_BYTES_MAX

    def mapping(self, values: Mapping[str, object], depth: int) -> dict[str, Any]:
        read = {}
        for name, value in values.items():
            try:
                read[self._text(name)] = self._value(value, depth)
            except _Unfit as error:
                error.path.append(f".{name}")
                raise
        return read

    def _value(self, value: object, depth: int) -> object:
        if isinstance(value, str):
            return self._text(value)
        if depth == 0:
            raise _Unfit("nested too deep")
        self._take(_VALUE_BYTES)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return _number(value)
        if isinstance(value, Mapping):
            return self.mapping(value, depth - 1)
        if isinstance(value, list | tuple):
            return self._items(value, depth - 1)
        raise _Unfit(f"expected what JSON has, not {type(value).__name__}")

    def _items(self, values: Iterable[object], depth: int) -> list[object]:
        read: list[object] = []
        for value in values:
            try:
                read.append(self._value(value, depth))
            except _Unfit as error:
                error.path.append(f"[{len(read)}]")
                raise
        return read

    def _text(self, text: object) -> str:
        if not isinstance(text, str):
            raise _Unfit("expected names that are texts")
        try:
            size = len(text) if text.isascii() else len(text.encode())
        except UnicodeEncodeError:
            raise _Unfit("expected Unicode text") from None
        self._take(size + _VALUE_BYTES)
        return text

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _Unfit(f"attributes have at most {_ATTRIBUTE_BYTES_MAX} bytes")


def _number(value: float) -> float:
    if isinstance(value, int) and -_EXACT_MAX <= value <= _EXACT_MAX:
        return value
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    # NaN is neither above nor below a bound: it would slip past every rule with a limit.
    if not math.isfinite(number):
        raise _Unfit("expected a finite number")
    return number
