"""How fast workloads fall ill: many at once are rather one cause than many."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from aegis_executor.guards.numbers import StormNumbers

Workload = tuple[str, str]

# What is usual is the mean of so many windows before the last one.
_WINDOWS = 12


@dataclass(frozen=True, slots=True)
class Onsets:
    """When workloads fell ill, as far back as it counts; `ill` is who is ill now.

    None knows who was ill before it looked for the first time, so the first look counts for
    nothing; nor is a history kept over a restart, after which next to nothing is usual.
    """

    ill: frozenset[Workload] | None = None
    times: tuple[datetime, ...] = ()

    def seen(self, ill: Collection[Workload], at: datetime, numbers: StormNumbers) -> Onsets:
        """Returns what is known after a look."""
        now = frozenset(ill)
        fresh = len(now - self.ill) if self.ill is not None else 0
        oldest = at - timedelta(seconds=numbers.rate_seconds * (_WINDOWS + 1))
        kept = tuple(time for time in self.times if oldest < time <= at)
        return Onsets(now, (*kept, *[at] * fresh))

    def alarming(self, at: datetime, numbers: StormNumbers) -> str:
        """Returns why this is too fast, with the numbers; empty when it is not."""
        begin = at - timedelta(seconds=numbers.rate_seconds)
        recent = sum(time > begin for time in self.times)
        usual = (len(self.times) - recent) / _WINDOWS
        if recent < numbers.anomalous_min or recent <= numbers.rate_factor * max(1.0, usual):
            return ""
        seconds = f"{numbers.rate_seconds:g} s"
        return f"{recent} workloads fell ill within {seconds}, where {usual:.1f} is usual"
