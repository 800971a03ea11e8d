"""A detector: how suspicious an update is, on a scale that is a false-positive rate.

**Score.** How rare the rarest view of an update is among honest ones (`detection.regimes`), as a
logarithm, over that of the target rate: at 1 a share `target` of honest updates is as high, at 2
the square of it. Where several of a round are odd, the others' scores rise a little.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np

from aegis_server.review.detection.files import read, write
from aegis_server.review.detection.observing import UPDATES_MIN, Observation
from aegis_server.review.detection.regimes import VIEWS, Regime, regime_name, surprises
from aegis_server.review.deviations import Vector

# Measured with seeds that no report uses: a round with 30 % of attackers is judged as if the target
# were nearly twice as high.
_COMPANY, _COMPANY_STEPS, _ODD_MAX = 0.6, 3, 0.4
_FILE = "builtin.safetensors"


@dataclass(frozen=True, slots=True)
class Suspicion:
    """By update: `scores`, `alone`, `rates` (n,); `parts` (n, 2 * views), the scores of each view.

    `alone` are the scores and `rates` those of honest rounds, before the company an update is in
    counts.

    The views of now come first, then those so far.
    """

    scores: Vector
    alone: Vector
    rates: Vector
    parts: Vector


@dataclass(frozen=True, slots=True)
class Detector:
    """`target` is the share of honest updates that score 1 or more."""

    version: str
    target: float
    regimes: Mapping[str, Regime]

    def suspicion(self, observation: Observation) -> Suspicion:
        """Returns how suspicious each update is; nobody, where there are too few to tell."""
        n = len(observation.now)
        if n < UPDATES_MIN:
            return Suspicion(np.zeros(n), np.zeros(n), np.ones(n), np.zeros((n, 2 * len(VIEWS))))
        regime = self._regime(observation)
        known = regime.calibration(n)
        surprise = surprises(regime, known, observation)
        rarity = known.total.surprise(surprise.reshape(-1, 1)).reshape(surprise.shape)
        parts = rarity / -math.log(self.target)
        alone = parts.max(axis=1)
        return Suspicion(_in_company(alone), alone, np.exp(-rarity.max(axis=1)), _in_company(parts))

    def _regime(self, observation: Observation) -> Regime:
        """Returns what is known of such rounds, or else of those most like them."""
        for centred, evenness in itertools.product(
            (observation.centred, False), (observation.evenness, 1.0, 0.0)
        ):
            name = regime_name(
                private=observation.private,
                classes=observation.classes,
                centred=centred,
                evenness=evenness,
            )
            if name in self.regimes:
                return self.regimes[name]
        return next(iter(self.regimes.values()))

    def encode(self) -> bytes:
        """Returns the file; equal detectors give equal bytes."""
        return write(self.regimes, version=self.version, target=self.target)

    @classmethod
    def decode(cls, data: bytes) -> Detector:
        """Returns the detector of a file; raises `DetectorInvalid`."""
        return cls(*read(data))


def _in_company(scores: Vector) -> Vector:
    """Returns the scores, higher where many of the round are odd already.

    An attack comes from several sites more often than one site is odd by chance several times: with
    the odd ones' share grows what is likely of the next. Rows are updates.
    """
    odd = 0.0
    highest = scores.reshape(len(scores), -1).max(axis=1)
    for _ in range(_COMPANY_STEPS):
        odd = min(float((highest * (1 + _COMPANY * odd) >= 1).mean()), _ODD_MAX)
    found: Vector = scores * (1 + _COMPANY * odd)
    return found


@lru_cache(maxsize=1)
def builtin() -> Detector:
    """Returns the detector that ships."""
    return Detector.decode(files(__package__).joinpath(_FILE).read_bytes())
