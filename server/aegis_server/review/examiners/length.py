"""Which updates are longer, or shorter, than the others of their round?

Length is the sharpest measure. What an honest DP-SGD update weighs is mostly noise, and the noise
of a site falls with its number of examples (standard deviation ~ clip * sigma / (rate * examples)).
So lengths are compared after correction for enrolled examples: times examples^1 when noise
explains them, times examples^0 when the signal does, or half way; the round's own lengths say
which correction makes them agree. Honest lengths then differ by some per cent; a poisoned update
that is to outweigh its honest peers has to be several times too long.
"""

from __future__ import annotations

import math

import numpy as np

from aegis_server.review.deviations import Members, Vector, robust_z
from aegis_server.review.findings import Examination, Finding, corroborating, decisive
from aegis_server.review.population import Population

NAME = "length"

# In robust standard deviations of the log length, i.e. about 1.8 times too long. Of honest updates
# 99 % stay below 1 where noise dominates, below 2.8 where the signal does (few parameters). With
# hardly any noise (epsilon 100), some 7 % are above.
NORM_Z = 3.0
# Without noise lengths follow the labels a site has, so it decides only among so few that nothing
# else would find it.
UPDATES_FEW = 8
LAYER_NORM_Z = 5.0

# The median absolute deviation of four values can be zero by chance; lengths of honest updates
# differ by some 10-20 % whatever the round says.
_SPREAD_MIN = 0.2
# An explanation other than noise has to fit this much better before it is believed.
_FIT_MARGIN = 0.1
_EXPONENTS = (1.0, 0.5, 0.0)


def examine(population: Population) -> Examination:
    """Returns length, and the layer that stands out most; no finding without peers."""
    n = len(population)
    logs = _corrected(_log(population.norms), population.examples, population.members)
    names = list(population.layers)
    layers = np.stack([_layer_logs(population, name) for name in names], axis=1)
    share = layers - _log(population.norms)[:, None]
    features = {
        "length/norm": logs,
        # The layer whose share of the update differs most, whatever the update's length.
        "length/layer": np.abs(robust_z(share, 0.05, population.members)).max(axis=1),
    }
    if n < 2:
        return Examination([[] for _ in range(n)], features)
    norms = _norm_findings(logs, population)
    layer_z = np.stack(
        [
            _z(
                _corrected(column, population.examples, population.members),
                _SPREAD_MIN,
                size,
                population,
            )
            for column, size in zip(layers.T, _sizes(population), strict=True)
        ],
        axis=1,
    )
    worst = layer_z.argmax(axis=1)
    return Examination(
        [[norms[i], _layer_finding(float(layer_z[i].max()), names[worst[i]])] for i in range(n)],
        features,
    )


def _norm_findings(logs: Vector, population: Population) -> list[Finding]:
    private = any(each.noise > 0 for each in population.case.submissions)
    decides = private or len(population) < UPDATES_FEW
    z = _z(logs, _SPREAD_MIN, population.matrix.shape[1], population)
    return [_norm_finding(each, decides=decides) for each in z.tolist()]


def _sizes(population: Population) -> list[int]:
    return [part.stop - part.start for part in population.layers.values()]


def _layer_logs(population: Population, name: str) -> Vector:
    return _log(np.sqrt(np.diag(population.grams[name])))


def _log(lengths: Vector) -> Vector:
    logs: Vector = np.log(np.maximum(lengths, np.finfo(np.float32).tiny))
    return logs


def _z(logs: Vector, floor: float, dimensions: int, population: Population) -> Vector:
    # The length of pure noise in d dimensions varies by 1 / sqrt(2 d): short layers vary more.
    return robust_z(logs, max(floor, math.sqrt(2 / max(dimensions, 1))), population.members)


def _corrected(logs: Vector, examples: Vector, members: Members) -> Vector:
    if (examples <= 0).any() or not members.any():
        return logs
    best, best_fit = logs, math.inf
    for exponent in _EXPONENTS:
        corrected = logs + exponent * np.log(examples)
        within = corrected[members]
        fit = float(np.median(np.abs(within - np.median(within))))
        if fit < best_fit - _FIT_MARGIN:
            best, best_fit = corrected, fit
    return best


def _norm_finding(z: float, *, decides: bool) -> Finding:
    strength = decisive(z / NORM_Z) if decides else corroborating(z / NORM_Z)
    text = "its length is ordinary for its number of examples"
    if z >= NORM_Z:
        text = f"it is far longer than the round's other updates: {z:.1f} deviations"
    return Finding(NAME, "norm_z", z, NORM_Z, strength, text)


def _layer_finding(z: float, layer: str) -> Finding:
    text = f"the layer that stands out most is {layer}: {z:.1f} deviations"
    strength = corroborating(z / LAYER_NORM_Z)
    return Finding(NAME, "layer_norm_z", z, LAYER_NORM_Z, strength, text)
