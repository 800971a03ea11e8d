"""What Prometheus is told of the review room.

Labels are few and known: verdicts, and ranges of reputation. Participants are none: their figures
are in `ListStandings`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from prometheus_client import CollectorRegistry, Counter, Gauge

from aegis.serving.database import Connection
from aegis_server.review.case import Ruling
from aegis_server.review.standing import store

# Their first ends where a quarantine is proposed.
_BOUNDS = (0.0, 0.25, 0.4, 0.6, 0.8, 1.0)


class Counts:
    """The metrics of the review room; the gauges are as this process last saw the database."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._verdicts = Counter(
            "aegis_review_verdicts_total",
            "Updates that were judged, by the examiners' verdict.",
            ["verdict"],
            registry=registry,
        )
        self._held = Gauge(
            "aegis_review_held",
            "Updates that wait for a person.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._proposed = Gauge(
            "aegis_review_quarantines_proposed",
            "Quarantines that nobody has decided.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._reputations = Gauge(
            "aegis_review_participants",
            "Participants, by the range their reputation is in.",
            ["reputation"],
            registry=registry,
            multiprocess_mode="livemostrecent",
        )

    def judged(self, ruling: Ruling) -> None:
        """Counts a round that was judged."""
        for judgement in ruling.judgements:
            self._verdicts.labels(judgement.verdict.value).inc()

    async def refresh(self, connection: Connection) -> None:
        """Reads the gauges anew."""
        proposed, held = await store.pending(connection)
        self._proposed.set(proposed)
        self._held.set(held)
        for words, number in histogram(await store.reputations(connection)).items():
            self._reputations.labels(words).set(number)


def histogram(reputations: Iterable[float]) -> dict[str, int]:
    """Returns how many reputations are in each range, "0.25-0.4" and so on."""
    found = {f"{low:g}-{high:g}": 0 for low, high in pairwise(_BOUNDS)}
    for value in reputations:
        index = max(at for at, low in enumerate(_BOUNDS[:-1]) if value >= low)
        found[f"{_BOUNDS[index]:g}-{_BOUNDS[index + 1]:g}"] += 1
    return found
