"""Short stand-ins for vectors: cosines between updates of different rounds without their bytes.

A count sketch (Charikar, Chen, Farach-Colton 2002) adds every number, with a sign, to one of 1,024
buckets. Which bucket and which sign depend on the position only, so sketches add up as vectors do,
and the cosine of two is that of the vectors, give or take 1 / sqrt(1024).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aegis_learning.parameters import Array

BUCKETS = 1024
_BLOCK = 1 << 20
_SEED = 0x736B65746368


def sketch(vector: Array) -> bytes:
    """Returns 1,024 float32 of little endian; a vector too long for them is scaled down."""
    return sketches(vector[None])[0]


def sketches(matrix: NDArray[np.float32]) -> list[bytes]:
    """Returns the sketch of each row."""
    random = np.random.default_rng(_SEED)
    totals = np.zeros((len(matrix), BUCKETS))
    for start in range(0, matrix.shape[1], _BLOCK):
        block = matrix[:, start : start + _BLOCK]
        drawn = random.integers(0, 2 * BUCKETS, block.shape[1], dtype=np.int32)
        buckets, signs = drawn >> 1, np.where(drawn & 1, 1.0, -1.0)
        for total, part in zip(totals, block, strict=True):
            total += np.bincount(buckets, weights=signs * part, minlength=BUCKETS)
    limit = float(np.finfo(np.float32).max)
    largest = np.maximum(np.abs(totals).max(axis=1, keepdims=True), 1e-300)
    return [row.tobytes() for row in (totals * np.minimum(1.0, limit / largest)).astype("<f4")]


def values(data: bytes) -> NDArray[np.float64]:
    """Returns the numbers of a sketch, shape (1024,); raises ValueError for anything else."""
    found = np.frombuffer(data, "<f4").astype(np.float64)
    if found.shape != (BUCKETS,):
        raise ValueError(f"a sketch has {BUCKETS} numbers, not {len(found)}")
    return found


def mean(data: Sequence[bytes]) -> bytes:
    """Returns the sketch of the mean of the vectors that were sketched."""
    return np.mean([values(each) for each in data], axis=0).astype("<f4").tobytes()


def cosine(a: bytes, b: bytes) -> float:
    """Returns the cosine of two sketches; 0 when one is of a vector of zeros."""
    left, right = values(a), values(b)
    length = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / length if length > 0 else 0.0
