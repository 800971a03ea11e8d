"""Examiners: each looks at a whole round of updates and says what it finds about every one.

An examiner is a module with a noun for a name: `NAME`, and `examine(population)`, which returns an
`Examination`. To add one is to write the module and to name it here. The numbers of those in
`MEASURED` are what detectors look at; they are asked again whenever it turns out who is ordinary,
so what they compute once for a round they keep with `Population.once`. Those in `FURTHER` are asked
once, when the others have been: members are then the updates that nobody would reject so far.
"""

from __future__ import annotations

from typing import Protocol

from aegis_server.review.examiners import (
    backdoor,
    direction,
    fingerprint,
    golden_set,
    harm,
    labels,
    length,
    mixture,
    noise,
    past,
    spectral,
    twins,
)
from aegis_server.review.findings import Examination
from aegis_server.review.population import Population


class Examiner(Protocol):
    """What a module of this package has."""

    NAME: str

    def examine(self, population: Population) -> Examination:
        """Returns what it finds about each update; may raise, which holds the round."""


MEASURED: tuple[Examiner, ...] = (
    golden_set,
    fingerprint,
    length,
    direction,
    mixture,
    labels,
    spectral,
    twins,
    noise,
    past,
)
FURTHER: tuple[Examiner, ...] = (backdoor, harm)
ALL: tuple[Examiner, ...] = (*MEASURED, *FURTHER)
