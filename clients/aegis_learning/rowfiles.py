"""Rows with their labels as a safetensors file of two tensors, checked against a schema.

"x" has shape (rows, features), float32, as `Schema.encode` makes it; "y" has shape (rows,), int64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from aegis_learning.parameters import Array
from aegis_learning.rows import Split
from aegis_learning.schema import Categorical, Feature, Schema

# Clipped and scaled in float64, stored in float32.
_ROUNDING = 1e-6
_HEADER_BYTES = 4096


class RowsError(ValueError):
    """The file does not hold rows of the schema.

    `row` counts from 1, 0 when it is not about one row; `column` is a name or "". The message
    never quotes a value.
    """

    def __init__(self, problem: str, *, row: int = 0, column: str = "") -> None:
        place = ", ".join(filter(None, (f"row {row}" if row else "", column)))
        super().__init__(f"{place}: {problem}" if place else problem)
        self.row = row
        self.column = column


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a feature is in a row."""

    feature: Feature
    start: int

    def of(self, x: Array) -> Array:
        """Returns the feature's numbers, shape (rows, width)."""
        return x[:, self.start : self.start + self.feature.width]


def columns(schema: Schema) -> Iterator[Columns]:
    """Yields the features in order."""
    start = 0
    for feature in schema.features:
        yield Columns(feature, start)
        start += feature.width


def bytes_max(schema: Schema, rows: int) -> int:
    """Returns how many bytes a file of so many rows has at most."""
    return _HEADER_BYTES + rows * (4 * schema.width + 8)


def encode(rows: Split) -> bytes:
    """Returns the file; equal rows in equal order give equal bytes."""
    return safetensors.numpy.save(
        {
            "x": np.ascontiguousarray(rows.x, dtype=np.float32),
            "y": np.ascontiguousarray(rows.y, dtype=np.int64),
        }
    )


def decode(data: bytes, schema: Schema) -> Split:
    """Returns the rows; raises `RowsError` for the first thing that does not fit."""
    try:
        found = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise RowsError("this is not a safetensors file") from error
    if found.keys() != {"x", "y"}:
        raise RowsError('the file has to hold "x" and "y" and nothing else')
    x, y = found["x"], found["y"]
    if y["dtype"] != "I64" or len(y["shape"]) != 1:
        raise RowsError('"y" is not int64 of shape (rows,)')
    if x["dtype"] != "F32" or x["shape"] != [y["shape"][0], schema.width]:
        raise RowsError(f'"x" is not float32 of shape (rows, {schema.width}), rows as in "y"')
    rows = Split(
        np.frombuffer(x["data"], "<f4").reshape(x["shape"]).astype(np.float32),
        np.frombuffer(y["data"], "<i8").astype(np.int64),
    )
    _require_features(rows.x, schema)
    _refuse(
        (rows.y < 0) | (rows.y >= len(schema.classes)),
        schema.label,
        "is none of the schema's classes",
    )
    return rows


def _require_features(x: Array, schema: Schema) -> None:
    for each in columns(schema):
        values, name = each.of(x), each.feature.name
        _refuse(~np.isfinite(values).all(axis=1), name, "is not finite")
        if isinstance(each.feature, Categorical):
            words = (values == 1).sum(axis=1) == 1
            others = (values == -1).sum(axis=1) == each.feature.width - 1
            _refuse(~(words & others), name, "is none of the schema's values")
        else:
            beyond = (np.abs(values) > 1 + _ROUNDING).any(axis=1)
            _refuse(beyond, name, "is outside the schema's bounds, which are -1 and 1 here")


def _refuse(bad: Any, column: str, problem: str) -> None:
    """Raises for the first row where `bad`, bool of shape (rows,), says so."""
    if bad.any():
        raise RowsError(problem, row=int(bad.argmax()) + 1, column=column)
