"""Takes a champion back that counts out honest updates more often than it was made for."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from aegis.errors import AegisError
from aegis.serving.database import Database
from aegis_server.review.detectors import store
from aegis_server.review.detectors.current import Current
from aegis_server.review.detectors.drift import drift
from aegis_server.review.detectors.promoting import Promotion
from aegis_server.review.detectors.records import BUILTIN, from_rows, rates
from aegis_server.review.detectors.store import Scored, StoredDetector

log = logging.getLogger(__name__)

_LOOK_SECONDS = 30.0
# The last ones; an older mistake was either noticed then or is made up for by now.
_SCORED_MAX = 500


class Watch:
    """Looks at the champion every half minute. Run `run()` as a task.

    Any number of servers may look: the champion is taken back once.
    """

    def __init__(
        self,
        database: Database,
        promotion: Promotion,
        current: Current,
        *,
        registry: CollectorRegistry,
        look_seconds: float = _LOOK_SECONDS,
    ) -> None:
        self._database = database
        self._promotion = promotion
        self._current = current
        self._look_seconds = look_seconds
        self._told = ""
        self._rolled_back = Counter(
            "aegis_review_detector_rollbacks_total",
            "Champions that were taken back because honest updates were counted out too often.",
            registry=registry,
        )
        self._rejection_rate = Gauge(
            "aegis_review_detector_rejection_rate",
            "Share of the last updates that the champion counted out.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                await self.look()
            except AegisError as error:
                log.warning("the champion cannot be looked at: %s", error.message)
            await asyncio.sleep(self._look_seconds)

    async def look(self) -> None:
        """Takes the champion back if it has to be; tells once where there is no other."""
        async with self._database.transaction() as connection:
            champion = await store.in_state(connection, "champion")
            if champion is None:
                return
            scored = await store.decided(connection, champion, limit=_SCORED_MAX)
            suspects = await store.suspects(connection)
        rejected = sum(each.rejected for each in scored)
        self._rejection_rate.set(rejected / len(scored) if scored else 0.0)
        reason = await self._unusable(champion) or _drifted(champion, scored, suspects)
        if not reason:
            return
        heir = await self._promotion.roll_back(champion.version, reason)
        if heir is not None:
            self._rolled_back.inc()
            log.error(
                "detector %s was taken back, %s decides: %s",
                champion.version,
                heir.version,
                reason,
            )
        elif champion.version == BUILTIN and self._told != reason:
            self._told = reason
            log.error("the detector that ships errs, and there is no other: %s", reason)

    async def _unusable(self, champion: StoredDetector) -> str:
        if champion.sha256 is None or await self._current.file(champion):
            return ""
        return "this version of the program cannot read its file"


def _drifted(champion: StoredDetector, scored: Sequence[Scored], suspects: set[str]) -> str:
    _, fpr = rates(from_rows(champion.measured))
    # What it was measured to do is no drift.
    known = max(champion.target_fpr, 0.0 if math.isnan(fpr) else fpr)
    found = drift(scored, known, suspects)
    return str(found) if found is not None else ""
