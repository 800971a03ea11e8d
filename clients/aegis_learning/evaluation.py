"""Golden and test rows of a registered data set as one safetensors file."""

from __future__ import annotations

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from aegis_learning.datasets import Split
from aegis_learning.parameters import FormatError, ShapeError


def encode(golden: Split, test: Split) -> bytes:
    """Returns the file; equal rows give equal bytes."""
    return safetensors.numpy.save(
        {
            "golden.x": np.ascontiguousarray(golden.x, dtype=np.float32),
            "golden.y": np.ascontiguousarray(golden.y, dtype=np.int64),
            "test.x": np.ascontiguousarray(test.x, dtype=np.float32),
            "test.y": np.ascontiguousarray(test.y, dtype=np.int64),
        }
    )


def decode(data: bytes, features: int) -> tuple[Split, Split]:
    """Returns golden and test rows of so many features; raises `FormatError` or `ShapeError`."""
    try:
        found = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise FormatError("not a safetensors file") from error
    return _split(found, "golden", features), _split(found, "test", features)


def _split(found: dict[str, NDArray[np.generic]], name: str, features: int) -> Split:
    try:
        x, y = found[f"{name}.x"], found[f"{name}.y"]
    except KeyError as error:
        raise ShapeError(name, "is missing") from error
    if x.dtype != np.float32 or x.ndim != 2 or x.shape[1] != features:
        raise ShapeError(f"{name}.x", f"has shape {list(x.shape)}, not (rows, {features})")
    if y.dtype != np.int64 or y.shape != x.shape[:1]:
        raise ShapeError(f"{name}.y", f"has shape {list(y.shape)}, not {list(x.shape[:1])}")
    return Split(x.astype(np.float32), y.astype(np.int64))
