"""Who sends what another has sent, or what the model did by itself, or nothing?

No two sites train the same update: independent data and noise keep them apart. Colluders that
agree on a vector are close to each other even when they shake it a little, so what counts is the
distance to the nearest other update beside the distances that are usual in the round: large sites
without noise are all alike. A free-rider (Lin et al. 2019, "Free-riders in Federated Learning")
sends the step the model made last, perhaps with noise, or zeros.
"""

from __future__ import annotations

import numpy as np

from aegis_server.review import sketches
from aegis_server.review.deviations import Vector, ratio
from aegis_server.review.findings import Examination, Finding, decisive
from aegis_server.review.population import Population

NAME = "twins"

TWIN_COSINE = 0.999
# How many times nearer than the round's usual two updates a copy is at least.
CLOSER = 10.0
# The last step of the model, with less noise on it than any site's own training has.
REPEATED_COSINE = 0.98
# The last step was this one's own update, where a rule chooses one (Krum): it may resemble itself.
OWN_COSINE = 0.9999
_LEAST = 1e-9


def examine(population: Population) -> Examination:
    """Returns how near the nearest other update is, and how near the model's last step."""
    n = len(population)
    largest = population.cosines.max(axis=1) if n > 1 else np.zeros(n)
    # Halves of squared distances between updates of length one.
    usual = _usual(population)
    apart = np.maximum(1 - largest, _LEAST)
    repeated = population.once("repeated", lambda: _to_last_step(population))
    own = population.once("own", lambda: _own_steps(population))
    features = {
        "twins/nearest": np.log(max(usual, _LEAST) / apart) if n > 1 else np.zeros(n),
        "twins/repeated": repeated,
    }
    return Examination(
        [
            [
                *([_twin_finding(float(largest[i]), usual)] if n > 1 else []),
                _repeated_finding(float(repeated[i]), float(np.median(repeated)), own=own[i]),
                _nothing_finding(float(population.norms[i])),
            ]
            for i in range(n)
        ],
        features,
    )


def _usual(population: Population) -> float:
    pairs = np.triu_indices(len(population), 1)
    return float(np.median(1 - population.cosines[pairs])) if len(pairs[0]) else 0.0


def _to_last_step(population: Population) -> Vector:
    """Returns the cosine to what the round before has changed, 0 without one."""
    step = population.last_step
    length = float(np.linalg.norm(step.astype(np.float64)))
    return ratio(population.along(step), population.norms * length)


def _own_steps(population: Population) -> list[bool]:
    """Returns whose update of the round before was all that has changed the model."""
    case, step = population.case, sketches.sketch(population.last_step)
    return [
        any(
            past.round == case.round - 1 and sketches.cosine(past.sketch, step) >= OWN_COSINE
            for past in each.past[-1:]
            if past.sketch
        )
        for each in case.submissions
    ]


def _twin_finding(cosine: float, usual: float) -> Finding:
    apart = max(1 - cosine, _LEAST)
    strength = decisive(min((1 - TWIN_COSINE) / apart, usual / (CLOSER * apart)))
    text = "no other update of the round is a copy of it"
    if strength >= 1:
        text = "another update of the round points the same way to the third decimal: one copied"
    return Finding(NAME, "largest_cosine", cosine, TWIN_COSINE, strength, text)


def _repeated_finding(cosine: float, usual: float, *, own: bool) -> Finding:
    apart = max(1 - cosine, _LEAST)
    closeness = min((1 - REPEATED_COSINE) / apart, (1 - usual) / (CLOSER * apart))
    strength = decisive(closeness) if cosine > 0 and not own else 0.0
    text = f"its cosine to the last step of the model is {cosine:.2f}"
    if strength >= 1:
        text = f"it repeats the last step of the model (cosine {cosine:.3f}): nothing was trained"
    return Finding(NAME, "repeated_step", cosine, REPEATED_COSINE, strength, text)


def _nothing_finding(norm: float) -> Finding:
    text = "it changes the model" if norm > 0 else "it is all zeros: nothing was trained"
    return Finding(NAME, "length", norm, 0.0, 0.0 if norm > 0 else 1.0, text)
