"""What charts show, before anybody draws them: decisions over time, budgets as shares."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from aegis.audit.report.facts import DatasetBudget, DayCount, Period

BARS_MAX = 92


@dataclass(frozen=True, slots=True)
class Bar:
    """The decisions of `days` days from `first` on."""

    first: date
    days: int
    allowed: int
    denied: int


@dataclass(frozen=True, slots=True)
class Share:
    """What a data set has spent of its limit, between 0 and 1 unless it is overdrawn."""

    dataset: str
    spent: float
    limit: float

    @property
    def part(self) -> float:
        """The share."""
        return self.spent / self.limit


def bars(days: tuple[DayCount, ...], period: Period) -> tuple[Bar, ...]:
    """Returns at most `BARS_MAX` bars of equal width; empty days are bars, too.

    A period that goes on behind the last decision ends with it.
    """
    if not days:
        return ()
    first = period.start.date()
    wanted = (days[-1].day - first).days + 1
    width = -(-wanted // BARS_MAX)
    counts = {each.day: each for each in days}
    found = []
    for begin in range(0, wanted, width):
        start = first + timedelta(days=begin)
        inside = [counts.get(start + timedelta(days=each)) for each in range(width)]
        allowed = sum(each.allowed for each in inside if each)
        denied = sum(each.denied for each in inside if each)
        found.append(Bar(start, width, allowed, denied))
    return tuple(found)


def shares(datasets: tuple[DatasetBudget, ...]) -> tuple[Share, ...]:
    """Returns the data sets whose budget the records tell."""
    return tuple(
        Share(each.dataset, each.spent, each.limit)
        for each in datasets
        if each.spent is not None and each.limit
    )
