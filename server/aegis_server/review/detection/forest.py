"""An isolation forest as flat arrays: trained with scikit-learn, scored with numpy.

Liu, Ting, Zhou 2008, "Isolation Forest": what is odd is alone after few random cuts. All trees lie
one after the other in the same arrays, so that a round is scored by a handful of array operations,
and the file holds numbers only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aegis_server.review.deviations import Vector

_EULER = 0.5772156649015329
_TREES = 20
_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class Forest:
    """`roots` are the positions of the trees' roots; a leaf's `left` is itself.

    `feature` and `threshold` say where a node cuts: at most the threshold goes to the left.
    `depth` is a leaf's depth with what its rows would still take, `usual` the mean over all rows.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int16]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    depth: NDArray[np.float32]
    usual: float

    def score(self, rows: Vector) -> Vector:
        """Returns how odd each row of (n, measures) is: from 0 to 1, one half being ordinary."""
        at = np.repeat(self.roots[None, :], len(rows), axis=0)
        while True:
            which = np.take_along_axis(rows, self.feature[at].astype(np.intp), axis=1)
            on = np.where(which <= self.threshold[at], self.left[at], self.right[at])
            if (on == at).all():
                break
            at = on
        odd: Vector = np.exp2(-self.depth[at].mean(axis=1) / self.usual)
        return odd


def plant(rows: Vector, seed: int) -> Forest:
    """Returns a forest trained on honest rows of (n, measures)."""
    from sklearn.ensemble import IsolationForest

    trained = IsolationForest(
        n_estimators=_TREES, max_samples=min(_SAMPLES, len(rows)), random_state=seed, n_jobs=1
    ).fit(rows.astype(np.float32))
    parts: list[tuple[NDArray[Any], ...]] = []
    roots, start = [], 0
    for estimator, columns in zip(trained.estimators_, trained.estimators_features_, strict=True):
        tree = estimator.tree_
        own = np.arange(start, start + tree.node_count)
        leaf = tree.children_left < 0
        parts.append(
            (
                np.where(leaf, 0, columns[np.where(leaf, 0, tree.feature)]),
                tree.threshold,
                np.where(leaf, own, tree.children_left + start),
                np.where(leaf, own, tree.children_right + start),
                _depths(tree) + _remaining(tree.n_node_samples),
            )
        )
        roots.append(start)
        start += tree.node_count
    feature, threshold, left, right, depth = (
        np.concatenate(each) for each in zip(*parts, strict=True)
    )
    return Forest(
        np.array(roots, np.int32),
        feature.astype(np.int16),
        threshold.astype(np.float32),
        left.astype(np.int32),
        right.astype(np.int32),
        depth.astype(np.float32),
        float(_remaining(np.array([trained.max_samples_]))[0]),
    )


def _depths(tree: Any) -> Vector:
    depths = np.zeros(tree.node_count)
    for node in range(tree.node_count):
        for child in (tree.children_left[node], tree.children_right[node]):
            if child >= 0:
                depths[child] = depths[node] + 1
    return depths


def _remaining(rows: NDArray[np.int64]) -> Vector:
    """Returns the mean depth of a random tree of so many rows (Liu et al. 2008, equation 1)."""
    many = np.maximum(rows, 3).astype(np.float64)
    depth = 2 * (np.log(many - 1) + _EULER) - 2 * (many - 1) / many
    found: Vector = np.where(rows > 2, depth, np.where(rows == 2, 1.0, 0.0))
    return found
