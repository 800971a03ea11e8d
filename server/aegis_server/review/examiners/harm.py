"""How much worse is the round's mean with an update than without it?

In a poisoned mean every honest update looks strange, so the means are those of the *ordinary*
updates: of the members, without the worst found here, one after the other, until the rest agree.
If even their mean ruins the model, this examiner cannot tell who did it and counts it against all
of them; the quorum rule then holds the round.

Attackers hide behind each other: without one of six the mean is hardly better. So when the mean of
the members makes the model worse, which honest rounds hardly do, those that push it up the slope of
the golden loss are taken out, the steepest first, as long as each that goes is worth a tenth of
the one that is worth most; at most as many as a quorum lets be rejected.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aegis_server.review.deviations import Members
from aegis_server.review.examiners import golden_set
from aegis_server.review.findings import Examination, Finding, decisive
from aegis_server.review.means import Means
from aegis_server.review.population import Population

#: The other half of that examiner.
NAME = golden_set.NAME

# Nats the golden loss of the mean rises by this update; of 99 % of honest ones by less than 0.12.
HARM = 0.4
# Nats by which the mean of the ordinary updates raises the loss of the model they start from.
# Honest rounds stay below 0.2 at epsilon 2 to 8.
ROUND_LOSS = 0.5
# Nats by which it does that before those who do it together are looked for.
RISE = 0.25
_WORTH = 0.1
_RECOVERED = 0.5
UPDATES_FEW = 8


def examine(population: Population) -> Examination:
    """Returns what each update does to the mean of the ordinary members."""
    means, losses = Means(population), dict[bytes, float]()

    def loss(members: Members) -> float:
        # Most are asked for by every update: the mean with it is that of all ordinary ones.
        key = members.tobytes()
        if key not in losses:
            losses[key] = means.loss(members)
        return losses[key]

    def harm(i: int, members: Members) -> float:
        without, with_it = members.copy(), members.copy()
        without[i], with_it[i] = False, True
        return loss(with_it) - loss(without)

    everyone = range(len(population))
    before = loss(np.zeros(len(population), bool))
    ordinary = _ordinary(population.members.copy(), harm)
    rise = loss(ordinary) - before
    uphill = _uphill(population, ordinary, before, loss)
    ordinary = ordinary & ~uphill
    round_loss = loss(ordinary) - before
    return Examination(
        [
            [
                _harm_finding(harm(i, ordinary)),
                _round_finding(round_loss),
                _together_finding(rise, uphill=bool(uphill[i])),
            ]
            for i in everyone
        ]
    )


def _uphill(
    population: Population, members: Members, before: float, loss: Callable[[Members], float]
) -> Members:
    """Returns the members that together make the model worse."""
    n = len(population)
    taken: Members = np.zeros(n, bool)
    most = min(int(members.sum()) - 2, n // 2 - int((~members).sum()))
    if n < UPDATES_FEW or loss(members) - before < RISE:
        return taken
    pushes = population.weights * golden_set.uphill(population, population.base)
    steepest = sorted(np.flatnonzero(members).tolist(), key=lambda i: -pushes[i])[: max(most, 0)]
    losses = [loss(members)]
    for i in steepest:
        taken[i] = True
        losses.append(loss(members & ~taken))
    gains = -np.diff(losses)
    if not len(gains) or losses[0] - min(losses) < _RECOVERED * (losses[0] - before):
        # Not they: then nobody can tell.
        return np.zeros(n, bool)
    worth = np.flatnonzero(gains >= _WORTH * gains.max())
    taken[steepest[int(worth[-1]) + 1 :]] = False
    return taken


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


def _together_finding(rise: float, *, uphill: bool) -> Finding:
    text = f"the mean of all that are not suspected changes the golden loss by {rise:+.2f} nats"
    if uphill:
        text = f"it is one of those that raise the golden loss by {rise:.2f} nats together"
    strength = decisive(rise / RISE) if uphill else 0.0
    return Finding(NAME, "harm_together", rise, RISE, strength, text)


def _round_finding(delta: float) -> Finding:
    text = f"the mean of the round's ordinary updates changes the golden loss by {delta:+.2f} nats"
    return Finding(NAME, "round_loss", delta, ROUND_LOSS, decisive(delta / ROUND_LOSS), text)
