"""The examiners, one after the other, on one round; one that fails holds what it could not examine.

An input that is missing counts as tripped: an update nobody could look at is neither accepted nor
rejected. When an examiner fails on a round, every update is tried alone; those it fails on are the
ones it could not examine, and the others are judged without them, so that one update that crashes
an examiner does not hold a whole round. When it fails on none alone, all are held.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from aegis_server.review.deviations import Vector
from aegis_server.review.examiners import Examiner
from aegis_server.review.findings import Examination, Finding
from aegis_server.review.population import Population

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Examined:
    """What examiners found: `findings` by update, `features` by name, `failed` by update."""

    findings: list[list[Finding]]
    features: dict[str, Vector] = field(default_factory=dict)
    failed: dict[int, list[Finding]] = field(default_factory=dict)

    def add(self, more: Examined) -> None:
        """Takes over what other examiners found about the same round."""
        for own, theirs in zip(self.findings, more.findings, strict=True):
            own += theirs
        self.features |= more.features
        for place, failures in more.failed.items():
            self.failed.setdefault(place, []).extend(failures)


def quiet(examiner: str) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Examining:
    """Has rounds examined; `begin` is told each examiner's name first, but those `without`."""

    begin: Callable[[str], None] = quiet
    without: Collection[str] = ()

    def __call__(self, population: Population, examiners: Sequence[Examiner]) -> Examined:
        """Returns what these examiners found."""
        examined = Examined([[] for _ in range(len(population))])
        for examiner in examiners:
            if examiner.NAME in self.without:
                continue
            self.begin(examiner.NAME)
            try:
                _add(examined, examiner.examine(population), range(len(population)))
            except Exception:
                log.exception("examiner %s failed on a round", examiner.NAME)
                _one_by_one(examined, examiner, population)
        return examined


def _one_by_one(examined: Examined, examiner: Examiner, population: Population) -> None:
    everyone = range(len(population))
    examinable = [i for i in everyone if _works(examiner, population.part([i]))]
    if len(examinable) == len(population) or not _works(examiner, population.part(examinable)):
        examinable = []
    if examinable:
        _add(examined, examiner.examine(population.part(examinable)), examinable)
    for i in everyone:
        if i not in examinable:
            text = f"the examiner {examiner.NAME} failed, so nobody knows what it would have found"
            failure = Finding(examiner.NAME, "failed", 1.0, 1.0, 0.0, text)
            examined.failed.setdefault(i, []).append(failure)


def _works(examiner: Examiner, alone: Population) -> bool:
    try:
        examiner.examine(alone)
    except Exception:
        return False
    return True


def _add(examined: Examined, examination: Examination, places: Sequence[int]) -> None:
    n = len(examined.findings)
    if len(examination.findings) != len(places):
        raise ValueError("an examiner has to say something about every update")
    for place, findings in zip(places, examination.findings, strict=True):
        examined.findings[place] += findings
    for name, values in examination.features.items():
        whole = np.full(n, float(np.median(values)))
        whole[list(places)] = np.nan_to_num(values)
        examined.features[name] = whole
