"""Could any mix of labels have led here, and so far?

With unevenly dealt labels honest updates differ as much as poisoned ones do, but not in any way: a
site's first step is the mean of its classes' slopes, whatever their shares. So an update is held
against the cone of the golden rows' slopes by class. `inside` is its cosine to the nearest mixture:
what it has beside, no labels explain. `cone` is that less the cosine of its opposite: noise goes
either way alike, who trains on wrong labels or goes backward does not. `far` is its length beside
the longest a site could make of rows like the golden ones, with the noise that was promised.
"""

from __future__ import annotations

import numpy as np

from aegis_learning.parameters import Array
from aegis_learning.rows import Split
from aegis_server.review.deviations import Vector, ratio
from aegis_server.review.findings import Examination, Finding, decisive, indicative
from aegis_server.review.population import Population, blocks

NAME = "mixture"

# Times the longest that rows like the golden ones, and the promised noise, explain. With noise the
# longest honest update of the lab is at 1.05, without at 2.3.
FAR, FAR_OPEN = 2.0, 4.0
CONE = -0.5
# More classes than these are looked at together.
_CLASSES_MAX = 16
_SWEEPS = 40


def examine(population: Population) -> Examination:
    """Returns how well a mixture of labels explains each update, and its length."""
    inside, cone, far = population.once("mixture", lambda: _found(population))
    private = any(each.noise > 0 for each in population.case.submissions)
    threshold = FAR if private else FAR_OPEN
    return Examination(
        [
            [_far_finding(f, threshold), _cone_finding(c)]
            for f, c in zip(np.exp(far).tolist(), cone.tolist(), strict=True)
        ],
        {"mixture/inside": inside, "mixture/cone": cone, "mixture/far": far},
    )


def _found(population: Population) -> tuple[Vector, Vector, Vector]:
    slopes, longest = population.once("slopes", lambda: slopes_by_class(population))
    products, gram, own = products_with(population, slopes)
    inside = nearest(products, gram, own)
    cone: Vector = inside - nearest(-products, gram, own)
    noise = np.array([each.noise for each in population.case.submissions])
    limit = np.sqrt(longest**2 + population.matrix.shape[1] * noise**2)
    lengths = np.maximum(population.norms, np.finfo(np.float32).tiny)
    return inside, cone, np.log(lengths / np.maximum(limit, np.finfo(np.float32).tiny))


def products_with(population: Population, directions: Array) -> tuple[Vector, Vector, Vector]:
    """Returns products of updates with c directions, (n, c), of those, (c, c), and squares, (n,).

    All on the sampled columns.
    """
    gram = np.zeros((len(directions), len(directions)))
    products = np.zeros((len(population), len(directions)))
    own = np.zeros(len(population))
    for block, some in zip(blocks(population.sampled), blocks(directions), strict=True):
        gram += some @ some.T
        products += block @ some.T
        own += (block**2).sum(axis=1)
    return products, gram, own


def nearest(products: Vector, gram: Vector, own: Vector) -> Vector:
    """Returns cosines of vectors to the nearest non-negative mixture, from products alone.

    `products` are those of n vectors with c directions, (n, c), `gram` those of the directions,
    (c, c), `own` the vectors' squared lengths. Non-negative least squares by coordinate descent.
    """
    shares = np.zeros(products.shape)
    for _ in range(_SWEEPS):
        for k in np.flatnonzero(np.diag(gram) > 0):
            left = products[:, k] - shares @ gram[:, k]
            shares[:, k] = np.maximum(shares[:, k] + left / gram[k, k], 0.0)
    # At the optimum the mixture's squared length is its product with the vector.
    explained = np.maximum((shares * products).sum(axis=1), 0.0)
    return np.sqrt(np.minimum(ratio(explained, own), 1.0))


def slopes_by_class(population: Population) -> tuple[Array, float]:
    """Returns the slopes by class, on the sampled columns, and how far the steepest leads."""
    local = population.case.local
    sampled, steepest = [], 0.0
    for rows in of_classes(population):
        slope = population.downhill(rows)
        sampled.append(slope[:: population.stride].copy())
        steepest = max(steepest, float(np.linalg.norm(slope.astype(np.float64))))
    return np.stack(sampled), steepest * local.steps * local.learning_rate


def of_classes(population: Population) -> list[Split]:
    """Returns the golden rows of each class, or of each group of classes where there are many."""
    rows = population.golden
    labels = np.unique(rows.y)
    return [
        rows.take(np.flatnonzero(np.isin(rows.y, group)))
        for group in np.array_split(labels, min(len(labels), _CLASSES_MAX))
    ]


def _far_finding(times: float, threshold: float) -> Finding:
    strength = decisive(times / threshold) if times >= threshold else indicative(times / threshold)
    text = f"it is {times:.1f} times as long as rows of any mix of labels would have made it"
    return Finding(NAME, "far", times, threshold, strength, text)


def _cone_finding(cosine: float) -> Finding:
    text = f"its cosine to the nearest mix of labels, less its opposite's, is {cosine:.2f}"
    return Finding(NAME, "cone", cosine, CONE, indicative(cosine / CONE), text)
