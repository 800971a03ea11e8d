"""What can be wrong with rules, and with a request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad place of a rule file: line and column count from 1; line 0 is the whole file."""

    line: int
    column: int
    expected: str


class PolicyError(ValueError):
    """A rule file is not usable; `violations` names every bad place in file order."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(sorted(violations, key=lambda bad: (bad.line, bad.column)))
        first = self.violations[0]
        place = f"line {first.line}, column {first.column}: " if first.line else ""
        more = f" (and {len(self.violations) - 1} more)" if len(self.violations) > 1 else ""
        super().__init__(f"{place}{first.expected}{more}")


class RequestError(ValueError):
    """A request that cannot be asked; `field` names the part that is not canonical."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: {expected}")
        self.field = field
        self.expected = expected
