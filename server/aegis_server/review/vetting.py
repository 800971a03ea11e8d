"""The verdict: what the examiners found about each update of a round, combined by one rule.

1. The examiners look at the round. Whose numbers are ordinary is found (`detection.observing`), and
   all are looked at once more, held against the ordinary ones only.
2. The detector says how rare an update is among honest ones, as a score that is 1 at its rate of
   false positives (`detection`). Below eight updates it says nothing.
3. Some findings need no detector: an update that is several times too long, a copy, all zeros,
   the model's own last step, or holds less noise than was promised; over the run it has led where
   no labels lead. Their strength is a score of its own.
4. What each update does to the mean of those nobody would reject so far is asked last.
5. `combining` has the rule, the quorum and the fallback.

`vet` is plain values in and out, so that it can run in a worker process. Nothing that participants
say about themselves is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np

from aegis_server.review.case import Case as Case
from aegis_server.review.case import Judgement as Judgement
from aegis_server.review.case import Ruling as Ruling
from aegis_server.review.case import Submission as Submission
from aegis_server.review.case import Verdict as Verdict
from aegis_server.review.combining import Evidence, rule, strongest
from aegis_server.review.detection import Detector, builtin
from aegis_server.review.detection.observing import Observation, observe
from aegis_server.review.deviations import Members, Vector
from aegis_server.review.examiners import FURTHER, MEASURED
from aegis_server.review.examining import Examining, quiet
from aegis_server.review.population import Population

#: In the first rounds there is no past to speak of.
WARM_UP = 3


def vet(
    case: Case, *, begin: Callable[[str], None] = quiet, without: Collection[str] = ()
) -> Ruling:
    """Judges a round.

    `begin` is told the name of each examiner before it looks; those in `without` do not. Raises the
    errors of `aegis_learning` when base or updates are not what intake let through, and
    `DetectorInvalid` when a detector is not one.
    """
    population = Population.as_trained(case)
    detector = Detector.decode(case.detector) if case.detector else builtin()
    shadow = Detector.decode(case.shadow) if case.shadow else None
    examine = Examining(begin, without)
    seen = look(population, examine, centred=bool(case.local.centre))
    suspicion = detector.suspicion(seen)
    ordinary = population.among(seen.core)
    examined = examine(ordinary, MEASURED)
    odd = [strongest(found) >= 1 for found in examined.findings]
    unsuspected = (suspicion.scores < 1) & ~np.array(odd)
    examined.add(examine(population.among(unsuspected), FURTHER))
    return rule(
        Evidence(
            population=ordinary,
            examined=examined,
            seen=seen,
            suspicion=suspicion,
            shadow=None if shadow is None else shadow.suspicion(seen),
        ),
        warming_up=case.round <= WARM_UP,
        detector=detector.version,
        shadow=shadow.version if shadow is not None else "",
    )


def look(population: Population, examine: Examining, *, centred: bool) -> Observation:
    """Returns what a detector is shown of the round."""
    case = population.case
    first = examine(population, MEASURED)

    def measure(members: Members) -> Mapping[str, Vector]:
        if members.all():
            return first.features
        return examine(population.among(members), MEASURED).features

    return observe(
        measure,
        [each.past for each in case.submissions],
        private=any(each.noise > 0 for each in case.submissions),
        classes=case.family.classes,
        centred=centred,
        shares=population.weights,
        barred=np.array([strongest(found) >= 1 for found in first.findings]),
    )
