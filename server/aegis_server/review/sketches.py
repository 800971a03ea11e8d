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


def sketch(vector: Array) -> bytes:
    """Returns 1,024 float32 of little endian; a vector too long for them is scaled down."""
    return sketches(vector[None])[0]


def sketches(matrix: NDArray[np.float32]) -> list[bytes]:
    """Returns the sketch of each row."""
    totals = np.zeros((len(matrix), BUCKETS))
    for start in range(0, matrix.shape[1], _BLOCK):
        block = matrix[:, start : start + _BLOCK]
        hashes = _hashes(start, start + block.shape[1])
        buckets = (hashes % BUCKETS).astype(np.intp)
        signs = np.where(hashes >> np.uint64(63), 1.0, -1.0)
        for total, part in zip(totals, block, strict=True):
            total += np.bincount(buckets, weights=signs * part, minlength=BUCKETS)
    # A vector too long for float32 keeps its direction.
    largest = np.maximum(np.abs(totals).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    totals *= np.minimum(1.0, float(np.finfo(np.float32).max) / largest)
    return [row.astype("<f4").tobytes() for row in totals]


def values(data: bytes) -> NDArray[np.float64]:
    """Returns the numbers of a sketch, shape (1024,); raises ValueError for anything else."""
    found = np.frombuffer(data, "<f4").astype(np.float64)
    if found.shape != (BUCKETS,):
        raise ValueError(f"a sketch has {BUCKETS} numbers, not {len(found)}")
    return found


def mean(data: Sequence[bytes], weights: Sequence[float] = ()) -> bytes:
    """Returns the sketch of the weighted mean of the vectors that were sketched.

    They weigh the same without weights, and when one is not known (0).
    """
    known = len(weights) == len(data) and all(weight > 0 for weight in weights)
    middle: NDArray[np.float64] = np.average(
        [values(each) for each in data], axis=0, weights=weights if known else None
    )
    return middle.astype("<f4").tobytes()


def cosine(a: bytes, b: bytes) -> float:
    """Returns the cosine of two sketches; 0 when one is of a vector of zeros."""
    left, right = values(a), values(b)
    length = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / length if length > 0 else 0.0


def _hashes(start: int, stop: int) -> NDArray[np.uint64]:
    """Returns a number of 64 bits for each position: SplitMix64 (Steele, Lea, Flood 2014).

    Written out, because a sketch must mean the same to every version of numpy.
    """
    with np.errstate(over="ignore"):
        z = np.arange(start + 1, stop + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
