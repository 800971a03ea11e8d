"""Drift: how far a participant's updates of late are from its own earlier ones.

Features are relative to the round, so one site's are comparable between rounds and runs. For each
feature the mean of the last five updates is set against those before them, in deviations of what
chance does to the difference of two such means; the drift is the largest of them, lessened by what
the largest of so many is anyway. 0 is ordinary, beyond 5 something at the site has changed: its
rows, its software, or its mind. Direction against the site's own past is one of the features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aegis_server.review.case import OF_THE_RUN

_LATE = 5
_EARLIER_MIN = 5
# A feature that has hardly moved so far is no yardstick: z-scores have this much in them anyway.
_SPREAD_MIN = 0.25
_DRIFT_MAX = 1e3


def drift(features: Sequence[Mapping[str, float]]) -> float:
    """Returns the drift of a participant's updates, oldest first; 0 while there are too few.

    Only features that every one of them has are compared, and that are not sums over a run.
    """
    if len(features) < _LATE + _EARLIER_MIN:
        return 0.0
    shared = set.intersection(*(set(each) for each in features))
    names = sorted(name for name in shared if not name.startswith(OF_THE_RUN))
    if not names:
        return 0.0
    table = np.array([[each[name] for name in names] for each in features])
    earlier, late = table[:-_LATE], table[-_LATE:]
    spread = np.maximum(earlier.std(axis=0, ddof=1), _SPREAD_MIN)
    chance = spread * np.sqrt(1 / len(earlier) + 1 / _LATE)
    largest = float(np.max(np.abs(late.mean(axis=0) - earlier.mean(axis=0)) / chance))
    # Of k normal numbers the largest is about sqrt(2 ln k).
    expected = float(np.sqrt(2 * np.log(max(len(names), 2))))
    return min(max(largest - expected, 0.0), _DRIFT_MAX)
