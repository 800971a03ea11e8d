"""Does a group of updates push the model toward one and the same trigger, in this round?

See `pushes`. Privacy noise hides that for some rounds: what adds up over rounds is looked at where
the next model is made (`publishing`), and that needs no verdict of ours. Here it has to be clear at
once, and by three updates at least: single sites with few rows do stand out.
"""

from __future__ import annotations

import numpy as np

from aegis_server.review import pushes
from aegis_server.review.deviations import Vector
from aegis_server.review.findings import Examination, Finding, decisive
from aegis_server.review.population import Population
from aegis_server.review.triggers import extremes

NAME = "backdoor"

#: With fewer updates the deviation of the others says nothing.
UPDATES_MIN = 8
_GROUP_MIN = 3
# Gaps between a group and the rest, in deviations times the root of its size. In rounds of honest
# sites it was below 8 on digits; on breast cancer, where sites have eight rows at least, one round
# in ten was above 16, by one or two sites.
SEPARATION = 16.0


def examine(population: Population) -> Examination:
    """Returns for each update how it pushes the trigger that sets a group apart most."""
    n = len(population)
    if n < UPDATES_MIN:
        return Examination([[] for _ in range(n)])
    tables = pushes.even(pushes.effects(population), noises_of(population))
    push = pushes.strongest(tables, population.weights, extremes(population.golden))
    clear = len(push.group) >= _GROUP_MIN
    found = [
        _finding(push, i, push.separation if clear and i in push.group else 0.0) for i in range(n)
    ]
    return Examination([[each] for each in found], {"backdoor/push": push.z})


def noises_of(population: Population) -> Vector:
    """Returns the deviation of the noise each update promised, shape (n,)."""
    return np.array([each.noise for each in population.case.submissions])


def _finding(push: pushes.Push, i: int, separation: float) -> Finding:
    trigger = push.trigger
    strength = decisive(separation / SEPARATION)
    text = "it is in no group that pushes the same trigger"
    if strength >= 1:
        where = ", ".join(map(str, trigger.features))
        text = (
            f"it is one of {len(push.group)} updates that all teach the model to answer class"
            f" {trigger.target} to rows whose features {where} are extreme"
        )
    return Finding(NAME, "separation", separation, SEPARATION, strength, text)
