"""How much worse is the round's mean with an update than without it?

In a poisoned mean every honest update looks strange, so the means are those of the *ordinary*
updates: of the members, without the worst found here, one after the other, until the rest agree.
If even their mean ruins the model, this examiner cannot tell who did it and counts it against all
of them; the quorum rule then holds the round.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aegis_server.review.deviations import Members
from aegis_server.review.examiners import golden_set
from aegis_server.review.findings import Examination, Finding, decisive
from aegis_server.review.population import Population
from aegis_server.review.quality import loss_of

#: The other half of that examiner.
NAME = golden_set.NAME

# Nats the golden loss of the mean rises by this update; of 99 % of honest ones by less than 0.12.
HARM = 0.4
# Nats by which the mean of the ordinary updates raises the loss of the model they start from.
# Honest rounds stay below 0.2 at epsilon 2 to 8.
ROUND_LOSS = 0.5


def examine(population: Population) -> Examination:
    """Returns what each update does to the mean of the ordinary members."""

    def loss(members: Members) -> float:
        params = population.moved(population.mean(members))
        with np.errstate(all="ignore"):
            return loss_of(
                population.family.logits(params, population.golden.x), population.golden.y
            )

    def harm(i: int, members: Members) -> float:
        without, with_it = members.copy(), members.copy()
        without[i], with_it[i] = False, True
        return loss(with_it) - loss(without)

    everyone = range(len(population))
    ordinary = _ordinary(population.members.copy(), harm)
    nobody = np.zeros(len(population), bool)
    round_loss = loss(ordinary) - loss(nobody)
    return Examination(
        [[_harm_finding(harm(i, ordinary)), _round_finding(round_loss)] for i in everyone]
    )


def _ordinary(members: Members, harm: Callable[[int, Members], float]) -> Members:
    """Returns those of `members` that do each other no harm."""
    while members.any():
        harms = {int(i): harm(int(i), members) for i in np.flatnonzero(members)}
        harmful = sorted((i for i in harms if harms[i] >= HARM), key=lambda i: -harms[i])
        if not harmful:
            break
        # The worst distorts the rest, so look again without it; half at once in large rounds.
        members[harmful[: (len(harmful) + 1) // 2]] = False
    return members


def _harm_finding(harm: float) -> Finding:
    effect = f"{abs(harm):.2f} nats {'higher' if harm > 0 else 'lower'}"
    text = f"with it the golden loss of the round's mean is {effect} than without"
    return Finding(NAME, "harm", harm, HARM, decisive(harm / HARM), text)


def _round_finding(delta: float) -> Finding:
    text = f"the mean of the round's ordinary updates changes the golden loss by {delta:+.2f} nats"
    return Finding(NAME, "round_loss", delta, ROUND_LOSS, decisive(delta / ROUND_LOSS), text)
