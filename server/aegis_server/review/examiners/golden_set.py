"""What does an update do to the model, on rows nobody trains on?

One site's update may well hurt alone: with unevenly dealt labels it leans toward the labels the
site has, and small sites add much noise. What counts is what it does to the round's mean, so the
decisive measure is leave-one-out: how much worse is the next model with it than without it?

In a poisoned mean every honest update looks strange, so the means are those of the *ordinary*
updates: without those the other examiner is sure about, and without the worst found here, one
after the other, until the rest agree. If even their mean ruins the model, this examiner cannot
tell who did it and counts it against all of them; the quorum rule then holds the round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aegis_learning.datasets import Split
from aegis_learning.parameters import Array, Parameters, flatten
from aegis_learning.scores import accuracy, log_loss
from aegis_server.review.findings import Finding, corroborating, decisive

EXAMINER = "golden-set"

# Nats the golden loss of the mean rises by this update; of 99 % of honest ones by less than 0.12.
HARM = 0.4
# Nats by which the mean of the ordinary updates raises the loss of the model they start from.
# Honest rounds stay below 0.2 at epsilon 2 to 8.
ROUND_LOSS = 0.5
# Nats by which it raises the loss alone, beyond what the others do alone.
LOSS_EXCESS = 4.0
# Share of golden rows it gets wrong alone, beyond what the others do alone.
ACCURACY_DROP = 0.5
# Stands for a loss too large for numbers: an honest model never comes near.
_LOSS_MAX = 1_000.0

Logits = Callable[[Parameters, Array], Array]


class _Quality(NamedTuple):
    loss: float
    accuracy: float


def examine(
    base: Parameters,
    updates: Sequence[Parameters],
    examples: Sequence[int],
    *,
    suspects: Collection[int],
    logits: Logits,
    golden: Split,
) -> list[list[Finding]]:
    """Returns the findings for each update of the round that starts from `base`.

    `examples` weigh the mean as the aggregation will; 0 anywhere means equal weights. `suspects`
    are positions of updates that another examiner would reject alone.
    """
    matrix = np.stack([flatten(update) for update in updates]).astype(np.float64)
    weights = _weights(examples)

    def quality(members: Collection[int]) -> _Quality:
        return _quality(_moved(base, _mean(matrix, weights, members)), logits, golden)

    def harm(i: int, peers: Collection[int]) -> float:
        others = [j for j in peers if j != i]
        return quality([*others, i]).loss - quality(others).loss

    everyone = range(len(updates))
    ordinary = _ordinary([i for i in everyone if i not in suspects], harm)
    round_loss = quality(ordinary).loss - quality([]).loss
    alone = [quality([i]) for i in everyone]
    losses = np.array([each.loss for each in alone])
    hits = np.array([each.accuracy for each in alone])
    return [
        [
            _harm_finding(harm(i, ordinary)),
            _round_finding(round_loss),
            _loss_finding(_beyond_others(losses, i)),
            _accuracy_finding(-_beyond_others(hits, i)),
        ]
        for i in everyone
    ]


def _ordinary(members: list[int], harm: Callable[[int, Collection[int]], float]) -> list[int]:
    """Returns those of `members` that do each other no harm."""
    while members:
        harms = {i: harm(i, members) for i in members}
        harmful = sorted((i for i in members if harms[i] >= HARM), key=lambda i: -harms[i])
        if not harmful:
            break
        # The worst distorts the rest, so look again without it; half at once in large rounds.
        worst = set(harmful[: (len(harmful) + 1) // 2])
        members = [i for i in members if i not in worst]
    return members


def _quality(params: Parameters, logits: Logits, golden: Split) -> _Quality:
    # A poisoned model may overflow on its way to the logits; that is an answer, not a failure.
    with np.errstate(all="ignore"):
        answers = logits(params, golden.x)
        loss = log_loss(answers, golden.y)
    if not math.isfinite(loss):
        return _Quality(_LOSS_MAX, 0.0)
    return _Quality(min(loss, _LOSS_MAX), accuracy(answers, golden.y))


def _weights(examples: Sequence[int]) -> NDArray[np.float64]:
    rows = np.array(examples, dtype=np.float64)
    if (rows <= 0).any():
        rows = np.ones_like(rows)
    shares: NDArray[np.float64] = rows / rows.sum()
    return shares


def _mean(
    matrix: NDArray[np.float64], weights: NDArray[np.float64], members: Collection[int]
) -> NDArray[np.float64]:
    """Returns the weighted mean of these rows; zero, no change at all, when there are none.

    Summed afresh each time: taking a huge row out of a sum would leave its rounding behind.
    """
    rows = sorted(members)
    if not rows:
        return np.zeros(matrix.shape[1])
    mean: NDArray[np.float64] = weights[rows] @ matrix[rows] / weights[rows].sum()
    return mean


def _moved(base: Parameters, delta: NDArray[np.float64]) -> Parameters:
    """Returns base + delta, where delta is flat: tensors in order of their names."""
    moved: Parameters = {}
    start = 0
    with np.errstate(over="ignore"):
        for name in sorted(base):
            values = base[name]
            part = delta[start : start + values.size].reshape(values.shape)
            moved[name] = (values + part).astype(np.float32)
            start += values.size
    return moved


def _beyond_others(values: NDArray[np.float64], i: int) -> float:
    others = np.delete(values, i)
    return float(values[i] - (np.median(others) if len(others) else 0.0))


def _harm_finding(harm: float) -> Finding:
    effect = f"{abs(harm):.2f} nats {'higher' if harm > 0 else 'lower'}"
    text = f"with it the golden loss of the round's mean is {effect} than without"
    return Finding(EXAMINER, "harm", harm, HARM, decisive(harm / HARM), text)


def _round_finding(delta: float) -> Finding:
    text = f"the mean of the round's ordinary updates changes the golden loss by {delta:+.2f} nats"
    strength = decisive(delta / ROUND_LOSS)
    return Finding(EXAMINER, "round_loss", delta, ROUND_LOSS, strength, text)


def _loss_finding(excess: float) -> Finding:
    text = f"alone it raises the golden loss by {excess:+.2f} nats compared to the other updates"
    return Finding(
        EXAMINER, "loss_excess", excess, LOSS_EXCESS, corroborating(excess / LOSS_EXCESS), text
    )


def _accuracy_finding(drop: float) -> Finding:
    text = f"alone it gets {drop:+.0%} of the golden rows wrong compared to the other updates"
    strength = corroborating(drop / ACCURACY_DROP)
    return Finding(EXAMINER, "accuracy_drop", drop, ACCURACY_DROP, strength, text)
