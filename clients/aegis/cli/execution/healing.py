"""What the self-healing report says, before it is shown: sums of states, and buckets to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from aegis.cli.durations import spoken
from aegis.v1 import execution_pb2

Report = execution_pb2.GetHealingReportResponse

HEADINGS = [
    "action",
    "total",
    "healed",
    "did not help",
    "failed",
    "unknown",
    "prevented",
    "not done",
    "open",
    "p50",
    "p95",
]
_GROUPS = (
    ("VERIFIED",),
    ("INEFFECTIVE", "INCONCLUSIVE", "COMPENSATED", "ESCALATED"),
    ("FAILED",),
    ("UNKNOWN",),
    ("DENIED", "REFUSED", "REJECTED"),
    ("EXPIRED", "CANCELLED", "DRY_RUN"),
)


@dataclass(frozen=True, slots=True)
class Slice:
    """Some neighbouring buckets of the report."""

    start: datetime
    healed: int
    failed: int
    prevented: int
    open: int

    @property
    def total(self) -> int:
        """Actions in it."""
        return self.healed + self.failed + self.prevented + self.open


def rows(report: Report) -> list[list[str]]:
    """Returns a row for each type of action, and the one for all of them last."""
    ordered = sorted(report.rows, key=lambda row: (not row.action, row.action))
    return [_row(each) for each in ordered]


def _row(row: Report.Row) -> list[str]:
    counts = [sum(row.states.get(name, 0) for name in group) for group in _GROUPS]
    left = row.total - sum(counts)
    numbers = [str(count) for count in (row.total, *counts, left)]
    times = [_time(row, "time_to_heal_p50"), _time(row, "time_to_heal_p95")]
    return [row.action or "all", *numbers, *times]


def _time(row: Report.Row, field: str) -> str:
    if not row.HasField(field):  # type: ignore[arg-type]
        return "–"
    return spoken(getattr(row, field).ToNanoseconds() / 1e9)


def refusals(report: Report) -> list[tuple[str, int]]:
    """Returns which check refused how often, the busiest first."""
    found = [(each.reason, each.count) for each in report.refusals]
    return sorted(found, key=lambda each: (-each[1], each[0]))


def slices(report: Report, most: int) -> list[Slice]:
    """Returns the buckets in order, neighbours put together until there are at most `most`."""
    buckets = sorted(report.buckets, key=lambda each: each.start_time.ToNanoseconds())
    width = max(1, -(-len(buckets) // most))
    return [_sum(buckets[at : at + width]) for at in range(0, len(buckets), width)]


def _sum(buckets: Sequence[Report.Bucket]) -> Slice:
    return Slice(
        buckets[0].start_time.ToDatetime(UTC),
        sum(each.healed for each in buckets),
        sum(each.failed for each in buckets),
        sum(each.prevented for each in buckets),
        sum(each.open for each in buckets),
    )


def period(report: Report) -> str:
    """Returns from when until when, UTC."""
    start, end = (each.ToDatetime(UTC) for each in (report.start_time, report.end_time))
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"


def in_words(report: Report) -> str:
    """Returns the report in a sentence."""
    counts = _sum(report.buckets) if report.buckets else None
    if counts is None or not counts.total:
        return "no action was asked for"
    words = (
        f"{counts.healed} healed, {counts.failed} failed or did not help,"
        f" {counts.prevented} prevented, {counts.open} open"
    )
    overall = next((row for row in report.rows if not row.action), None)
    if overall is not None and overall.HasField("time_to_heal_p50"):
        p50, p95 = _time(overall, "time_to_heal_p50"), _time(overall, "time_to_heal_p95")
        words += f"; healed in {p50} (median), {p95} (95th percentile)"
    return words
