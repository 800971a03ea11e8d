"""What was measured, for people and for programs."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Span = tuple[str, float, float]


def quantile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


@dataclass(slots=True)
class Report:
    """Says a line at a time, unless only the figures are wanted."""

    quiet: bool
    figures: dict[str, Any] = field(default_factory=dict)

    def say(self, line: str) -> None:
        if not self.quiet:
            print(line, flush=True)

    def load(self, when: str) -> None:
        self.figures[f"load_{when}"] = os.getloadavg()
        self.say(f"load {os.getloadavg()}, {os.cpu_count()} cores")

    def latency(
        self, name: str, rounds: Iterable[Sequence[float]], *, aim: str = "", scale: float = 1e3
    ) -> None:
        """Keeps the median over the rounds of each round's p50 and p99, told in milliseconds."""
        kept = [each for each in rounds if each]
        if not kept:
            self.say(f"{name:58s} nothing was measured")
            return
        p50, p99 = (
            statistics.median(quantile(each, percent) * scale for each in kept)
            for percent in (50, 99)
        )
        largest = max(max(each) for each in kept) * scale
        number = sum(map(len, kept))
        self.figures[name] = {"p50_ms": p50, "p99_ms": p99, "max_ms": largest, "n": number}
        aimed = f"  ({aim})" if aim else ""
        self.say(f"{name:58s} p50 {p50:8.2f}  p99 {p99:8.2f}  max {largest:8.2f} ms{aimed}")
