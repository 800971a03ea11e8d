"""A detector: how suspicious an update is, on a scale that is a false-positive rate.

**Score.** How rare the rarest view of an update is among honest ones (`detection.regimes`), as a
logarithm, over that of the target rate: at 1 a share `target` of honest updates is as high, at 2
the square of it.
"""

from __future__ import annotations

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

_FILE = "builtin.safetensors"


@dataclass(frozen=True, slots=True)
class Suspicion:
    """By update: `scores` and `rates` (n,); `parts` (n, 2 * views), the scores of each view.

    The views of now come first, then those so far.
    """

    scores: Vector
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
            return Suspicion(np.zeros(n), np.ones(n), np.zeros((n, 2 * len(VIEWS))))
        regime = self._regime(observation)
        known = regime.calibration(n)
        surprise = surprises(regime, known, observation)
        rarity = known.total.surprise(surprise.reshape(-1, 1)).reshape(surprise.shape)
        parts = rarity / -math.log(self.target)
        return Suspicion(parts.max(axis=1), np.exp(-rarity.max(axis=1)), parts)

    def _regime(self, observation: Observation) -> Regime:
        name = regime_name(private=observation.private, classes=observation.classes)
        return self.regimes.get(name) or next(iter(self.regimes.values()))

    def encode(self) -> bytes:
        """Returns the file; equal detectors give equal bytes."""
        return write(self.regimes, version=self.version, target=self.target)

    @classmethod
    def decode(cls, data: bytes) -> Detector:
        """Returns the detector of a file; raises `DetectorInvalid`."""
        return cls(*read(data))


@lru_cache(maxsize=1)
def builtin() -> Detector:
    """Returns the detector that ships."""
    return Detector.decode(files(__package__).joinpath(_FILE).read_bytes())
