"""The review's analytics: what was judged in a time, under every heading people ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from aegis.errors import FieldViolation, InvalidArgument
from aegis.serving.database import Database
from aegis_server.review.analytics import store
from aegis_server.review.analytics.store import CountRow, Scope, ThreatRow

_USUAL = timedelta(days=30)
_LONGEST = timedelta(days=366)
_THREATS = 200


@dataclass(frozen=True, slots=True)
class Found:
    """What was counted, and in which time."""

    scope: Scope
    counts: tuple[CountRow, ...]
    seconds_p50: float
    seconds_p99: float
    threats: tuple[ThreatRow, ...]

    def by(self, kind: str) -> list[CountRow]:
        """Returns the counts of one kind of heading: days in order, all others by their number.

        Updates that look like no attack are under no kind of attack.
        """
        rows = [row for row in self.counts if row.kind == kind and row.key]
        if kind == "day":
            return sorted(rows, key=lambda row: row.key)
        return sorted(rows, key=lambda row: (-row.judged, row.key))

    @property
    def total(self) -> CountRow:
        """All of it: every update was judged on one day."""
        days = self.by("day")
        return CountRow(
            kind="total",
            key="",
            judged=sum(row.judged for row in days),
            accepted=sum(row.accepted for row in days),
            rejected=sum(row.rejected for row in days),
            held=sum(row.held for row in days),
            overridden=sum(row.overridden for row in days),
        )


class Analytics:
    """Counts."""

    def __init__(self, database: Database, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def of(self, start: datetime | None, end: datetime | None, run_id: str) -> Found:
        """Returns what was judged from `start` (30 days before the end) to `end` (now).

        Raises `InvalidArgument` (FIELD_INVALID) when that is nothing or more than a year.
        """
        until = end or self._clock()
        scope = Scope(start or until - _USUAL, until, run_id)
        length = scope.end - scope.start
        if not timedelta(0) < length <= _LONGEST:
            text = "must be before end, by at most a year"
            raise InvalidArgument(
                "FIELD_INVALID", f"start {text}", violations=[FieldViolation("start", text)]
            )
        async with self._database.transaction() as connection:
            counts = await store.counts(connection, scope)
            p50, p99 = await store.seconds(connection, scope)
            threats = await store.threats(connection, scope, limit=_THREATS)
        return Found(scope, tuple(counts), p50, p99, tuple(threats))


def in_words(threat: ThreatRow) -> str:
    """Returns a threat in a sentence."""
    if threat.kind == store.QUARANTINE:
        return f"{', '.join(threat.participants)} is proposed for quarantine: {threat.text}"
    if threat.kind == store.MODEL:
        return f"the model of round {threat.round} of {threat.run_id} is blocked: {threat.text}"
    parts = [
        f"{number} {word}"
        for number, word in ((threat.rejected, "rejected"), (threat.held, "held"))
        if number
    ]
    kind = f"looks like {threat.kind}" if threat.kind != "unknown" else "looks like no known attack"
    return f"{' and '.join(parts)} in round {threat.round} of {threat.run_id}: {kind}"
