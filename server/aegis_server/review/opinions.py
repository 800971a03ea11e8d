"""What the detector says, as findings: which view of an update is rare, and by which measures."""

from __future__ import annotations

import numpy as np

from aegis_server.review.detection.detector import Suspicion
from aegis_server.review.detection.measures import (
    DIRECTION,
    MEASURES,
    NAMES,
    Kind,
    of_kind,
    suspicious,
)
from aegis_server.review.detection.observing import Observation
from aegis_server.review.detection.regimes import VIEWS
from aegis_server.review.findings import Finding, decisive

NAME = "detector"
FOREST = "forest"
_SHOWN = 3
_OF_VIEW = {
    "effect": of_kind(Kind.EFFECT),
    "form": of_kind(Kind.FORM),
    "past": of_kind(Kind.PAST),
    "heading": [NAMES.index(name) for name in DIRECTION],
    "harm": of_kind(Kind.EFFECT),
}
_ABOUT = {
    "forest": "all of it together",
    "effect": "what it does to the model",
    "form": "what it looks like",
    "all": "the rarest of its measures",
    "past": "how it goes on from its past",
    "heading": "where it leads",
    "harm": "the harm it does, on average",
}


def of(suspicion: Suspicion, seen: Observation, i: int) -> list[Finding]:
    """Returns a finding for each view of update `i`, now and so far."""
    found = []
    for k, (when, view) in enumerate((w, v) for w in ("", "_so_far") for v in VIEWS):
        part = float(suspicion.parts[i, k])
        deviations = seen.so_far if when else seen.now
        measures = _OF_VIEW.get(view, range(len(NAMES)))
        text = f"{_ABOUT[view]}{', over the run so far,' if when else ''} is {_rare(part)}"
        if part >= 0.5:
            text += f": {_standing_out(deviations[i], measures)}"
        examiner, measure = (FOREST, "isolation") if view == FOREST else (NAME, view)
        found.append(Finding(examiner, measure + when, part, 1.0, decisive(part), text))
    return found


def _rare(part: float) -> str:
    if part < 0.5:
        return "ordinary"
    return "rare among honest updates" if part >= 1 else "unusual, but honest updates are so too"


def _standing_out(deviations: np.ndarray, measures: range | list[int]) -> str:
    odd = suspicious(deviations)
    worst = sorted(measures, key=lambda k: -odd[k])[:_SHOWN]
    return ", ".join(
        f"{MEASURES[NAMES[k]].words} {np.sinh(deviations[k]):+.1f} deviations" for k in worst
    )
