"""Model parameters: named float32 arrays, and the bytes they travel and are stored as.

The bytes are a safetensors file. It holds numbers and their shapes, nothing that could run; a
pickle is refused before anything of it is looked at.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
Parameters: TypeAlias = dict[str, Array]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


class FormatError(ValueError):
    """The bytes are not a safetensors file."""


class ShapeError(ValueError):
    """A tensor is missing, not the model's, or has another shape or type."""

    def __init__(self, tensor: str, message: str) -> None:
        super().__init__(f"{tensor}: {message}")
        self.tensor = tensor


class NotFiniteError(ValueError):
    """A tensor holds NaN or infinity."""

    def __init__(self, tensor: str) -> None:
        super().__init__(f"{tensor}: holds NaN or infinity")
        self.tensor = tensor


def encode(params: Parameters) -> bytes:
    """Returns the safetensors file; equal parameters give equal bytes."""
    ordered = {
        name: np.ascontiguousarray(params[name], dtype=np.float32) for name in sorted(params)
    }
    return safetensors.numpy.save(ordered)


def decode(data: bytes, shapes: Shapes) -> Parameters:
    """Reads parameters of a model whose tensors are `shapes`.

    Raises `FormatError`, `ShapeError` (names, shapes, types) or `NotFiniteError`.
    """
    try:
        found = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise FormatError("not a safetensors file") from error
    for name in sorted(found.keys() ^ shapes.keys()):
        problem = "is missing" if name in shapes else "is not in the model"
        raise ShapeError(name[:64], problem)
    params: Parameters = {}
    for name, shape in shapes.items():
        tensor = found[name]
        if tensor["dtype"] != "F32":
            raise ShapeError(name, f"has type {tensor['dtype']} instead of F32")
        if tuple(tensor["shape"]) != tuple(shape):
            raise ShapeError(name, f"has shape {tensor['shape']} instead of {list(shape)}")
        values = np.frombuffer(tensor["data"], dtype="<f4", count=math.prod(shape))
        # What was read is a copy already, and nobody else's.
        params[name] = values.astype(np.float32, copy=False).reshape(shape)
    require_finite(params)
    return params


def check(params: Mapping[str, NDArray[np.generic]], shapes: Shapes) -> Parameters:
    """Returns arrays that came another way than `decode`, after the same checks."""
    for name in sorted(params.keys() ^ shapes.keys()):
        problem = "is missing" if name in shapes else "is not in the model"
        raise ShapeError(name[:64], problem)
    checked: Parameters = {}
    for name, shape in shapes.items():
        array = params[name]
        if array.dtype != np.float32:
            raise ShapeError(name, f"has type {array.dtype} instead of float32")
        if array.shape != tuple(shape):
            raise ShapeError(name, f"has shape {list(array.shape)} instead of {list(shape)}")
        checked[name] = array.astype(np.float32, copy=True)
    require_finite(checked)
    return checked


def require_finite(params: Parameters) -> None:
    """Raises `NotFiniteError` for the first tensor with NaN or infinity."""
    for name, values in params.items():
        if not np.isfinite(values).all():
            raise NotFiniteError(name)


def add(base: Parameters, delta: Parameters) -> Parameters:
    """Returns base + delta."""
    return {name: base[name] + delta[name] for name in base}


def subtract(params: Parameters, base: Parameters) -> Parameters:
    """Returns params - base: the update that leads from base to params."""
    return {name: params[name] - base[name] for name in base}


def scale(params: Parameters, factor: float) -> Parameters:
    """Returns factor times params."""
    return {name: (values * factor).astype(np.float32) for name, values in params.items()}


def flatten(params: Parameters) -> Array:
    """Returns all values as one vector, tensors in order of their names."""
    return np.concatenate([params[name].ravel() for name in sorted(params)]).astype(
        np.float32, copy=False
    )


def unflatten(values: Array, shapes: Shapes) -> Parameters:
    """Returns the parameters whose `flatten` is this vector."""
    params: Parameters = {}
    start = 0
    for name in sorted(shapes):
        stop = start + math.prod(shapes[name])
        params[name] = values[start:stop].reshape(shapes[name])
        start = stop
    return params


def digest(data: bytes) -> bytes:
    """Returns the SHA-256, the name of these bytes everywhere in Aegis."""
    return hashlib.sha256(data).digest()
