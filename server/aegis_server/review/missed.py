"""Who is counted out for being rare alone, and is missed on the golden rows.

Where labels are dealt unevenly a round may fall into two camps of honest sites that lead to
opposite ends; the larger is what is ordinary, the other is rare, and a mean of one camp alone makes
the model worse than both together do. So those against whom nothing speaks but the detector are
tried once more: in the mean of the accepted, the ones first that lead furthest down the slope the
golden loss has there. If the best of these means is better by more than chance, who is in it is
accepted. Whoever makes the model worse, or repeats what it has learnt already, is not missed; and
what is found without statistics stands. With privacy noise nobody is missed: a mean of more updates
has less of it, whoever sent them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from aegis_server.review import opinions
from aegis_server.review.deviations import Members
from aegis_server.review.examiners import golden_set
from aegis_server.review.findings import Finding
from aegis_server.review.means import Means
from aegis_server.review.population import Population

MEASURE = "missed"
#: Nats by which the golden loss of the mean has to be lower with them.
MISSED = 0.03
_BELOW = 0.99
_RARE = frozenset({opinions.NAME, opinions.FOREST})

Findings = tuple[Finding, ...]


def reinstated(population: Population, findings: Sequence[Findings]) -> list[Findings]:
    """Returns the findings, with those of who is missed no longer enough to reject."""
    against = [[each for each in found if each.strength >= 1] for found in findings]
    accepted = np.array([not each for each in against])
    rare = ~accepted & [all(f.examiner in _RARE for f in each) for each in against]
    noisy = any(each.noise > 0 for each in population.case.submissions)
    if noisy or not rare.any() or not accepted.any() or not len(population.golden):
        return list(findings)
    back, gain = _missed(population, accepted, rare)
    text = f"with the {len(back)} of this kind the golden loss of the mean is {gain:.2f} nats lower"
    told = Finding(golden_set.NAME, MEASURE, gain, MISSED, 0.0, f"{text}: to be rare is no offence")
    return [
        (*(replace(f, strength=min(f.strength, _BELOW)) for f in found), told)
        if i in back
        else found
        for i, found in enumerate(findings)
    ]


def _missed(population: Population, accepted: Members, rare: Members) -> tuple[set[int], float]:
    """Returns who is missed in the mean of the accepted, and what the golden loss gains."""
    means = Means(population)
    middle = population.moved(population.mean(accepted))
    pushes = population.weights * golden_set.uphill(population, middle)
    order = [int(i) for i in np.argsort(pushes, kind="stable") if rare[i] and pushes[i] < 0]
    members, losses = accepted.copy(), [means.loss(accepted)]
    for i in order:
        members[i] = True
        losses.append(means.loss(members))
    best = int(np.argmin(losses))
    gain = losses[0] - losses[best]
    return (set(order[:best]), gain) if gain >= MISSED else (set(), 0.0)
