"""Which detectors a round is judged with, and what they made of it."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

from aegis.serving.database import Connection, Database
from aegis_server.objects.blobs import BlobStore
from aegis_server.review.case import Judgement, Ruling
from aegis_server.review.detection import Detector, DetectorInvalid, builtin
from aegis_server.review.detection.observing import UPDATES_MIN
from aegis_server.review.detectors import store
from aegis_server.review.detectors.records import BUILTIN
from aegis_server.review.detectors.store import StoredDetector

log = logging.getLogger(__name__)

_CACHED_MAX = 4
_SCORE_MAX = 1e3


class Current:
    """Champion and shadow, as files; asked for each round, so every server judges by the same."""

    def __init__(
        self, database: Database, blobs: BlobStore, *, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._cached: OrderedDict[bytes, bytes] = OrderedDict()

    async def champion(self) -> bytes:
        """Returns the file of what decides; empty for the detector that ships.

        That one decides, too, where this program cannot read the champion's file: verdicts name
        who decided, and the champion will be taken back. Raises `DataLoss` (DATA_DAMAGED).
        """
        found = await self._in("champion")
        return await self.file(found) if found is not None else b""

    async def shadow(self) -> bytes:
        """Returns the file of what scores beside the champion; empty when nothing does."""
        found = await self._in("shadow")
        if found is None:
            return b""
        return builtin().encode() if found.version == BUILTIN else await self.file(found)

    async def note(self, connection: Connection, ruling: Ruling) -> None:
        """Keeps what both made of a round, in the transaction that writes its verdicts.

        Where the round as a whole went to a fallback the champion decided about nobody, and in one
        that is too small detectors have nothing to say.
        """
        if len(ruling.judgements) < UPDATES_MIN:
            return
        scored = [each for each in ruling.judgements if each.features]
        rows: list[tuple[str, str, float, bool]] = []
        champion = await store.find(connection, _row_of(ruling.detector))
        if champion is not None:
            rows += [
                (
                    each.update_id,
                    champion.version,
                    _score(each, champion.target_fpr),
                    not ruling.fallback,
                )
                for each in scored
            ]
        shadow = await store.find(connection, _row_of(ruling.shadow))
        if shadow is not None:
            rows += [
                (each.update_id, shadow.version, each.shadow_score, False)
                for each in scored
                if each.shadow_score is not None
            ]
        await store.insert_scores(connection, rows, self._clock())

    async def file(self, detector: StoredDetector) -> bytes:
        """Returns a detector's file; empty when there is none that this program can read."""
        sha256 = detector.sha256
        if sha256 is None:
            return b""
        if sha256 not in self._cached:
            self._cached[sha256] = _readable(detector.version, await self._blobs.get(sha256))
            if len(self._cached) > _CACHED_MAX:
                self._cached.popitem(last=False)
        self._cached.move_to_end(sha256)
        return self._cached[sha256]

    async def _in(self, state: str) -> StoredDetector | None:
        async with self._database.transaction() as connection:
            return await store.in_state(connection, state)


def _readable(version: str, data: bytes) -> bytes:
    try:
        Detector.decode(data)
    except DetectorInvalid as error:
        log.warning("detector %s cannot be used: %s", version, error)
        return b""
    return data


def _row_of(version: str) -> str:
    """Returns the row that stands for the version a file says it has."""
    return BUILTIN if version == builtin().version else version


def _score(judgement: Judgement, target: float) -> float:
    """Returns the detector's own part of a score: 1 where its false-positive rate is the target."""
    rate = judgement.false_positive_rate
    return min(math.log(rate) / math.log(target), _SCORE_MAX) if rate > 0 else _SCORE_MAX
