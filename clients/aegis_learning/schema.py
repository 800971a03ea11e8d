"""What a row of a data set looks like: columns, their public bounds, and the classes to tell apart.

Bounds are public knowledge and never fitted to rows: the mean, the deviation or the range of
private rows would leak what no accountant has seen. Numbers are clipped to their bounds and mapped
to [-1, 1]; a word becomes a column of -1 and 1 for each value it may have.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from aegis_learning.parameters import Array


class SchemaError(ValueError):
    """The schema makes no sense."""


class RowError(ValueError):
    """A row does not fit; `column` is where, and the message never quotes the value."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(f"{column}: {problem}")
        self.column = column
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Continuous:
    """A number between two bounds."""

    name: str
    low: float
    high: float

    width = 1

    def encode(self, text: str) -> tuple[float, ...]:
        """Returns the number, clipped and mapped to [-1, 1]; raises `RowError`."""
        try:
            value = float(text)
        except ValueError:
            raise RowError(self.name, "is not a number") from None
        if not math.isfinite(value):
            raise RowError(self.name, "is not finite")
        clipped = min(max(value, self.low), self.high)
        return (2 * (clipped - self.low) / (self.high - self.low) - 1,)

    def to_json(self) -> dict[str, Any]:
        """Returns the canonical form."""
        return {"name": self.name, "low": float(self.low), "high": float(self.high)}


@dataclass(frozen=True, slots=True)
class Categorical:
    """One of some words."""

    name: str
    values: tuple[str, ...]

    @property
    def width(self) -> int:
        """Columns it becomes."""
        return len(self.values)

    def encode(self, text: str) -> tuple[float, ...]:
        """Returns 1 in the column of the word and -1 in the others; raises `RowError`."""
        if text not in self.values:
            raise RowError(self.name, "is none of the schema's values")
        return tuple(1.0 if value == text else -1.0 for value in self.values)

    def to_json(self) -> dict[str, Any]:
        """Returns the canonical form."""
        return {"name": self.name, "values": list(self.values)}


Feature: TypeAlias = Continuous | Categorical


@dataclass(frozen=True)
class Schema:
    """Columns in order, and the label. Raises `SchemaError`."""

    features: tuple[Feature, ...]
    label: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features] + [self.label]
        if len(set(names)) != len(names):
            raise SchemaError("two columns have the same name")
        if not self.features:
            raise SchemaError("there is no feature")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise SchemaError("the label needs two classes or more, each once")
        for feature in self.features:
            if isinstance(feature, Continuous):
                bounds = (feature.low, feature.high)
                if not all(map(math.isfinite, bounds)) or feature.low >= feature.high:
                    raise SchemaError(f"{feature.name}: low must be below high")
            elif len(feature.values) < 2 or len(set(feature.values)) != len(feature.values):
                raise SchemaError(f"{feature.name}: needs two values or more, each once")

    @property
    def width(self) -> int:
        """Numbers a row becomes: the inputs of a model."""
        return sum(feature.width for feature in self.features)

    def encode(self, row: dict[str, str]) -> tuple[Array, int]:
        """Returns the features of a row, shape (width,), and its class; raises `RowError`."""
        numbers: list[float] = []
        for feature in self.features:
            numbers += feature.encode(_cell(row, feature.name))
        word = _cell(row, self.label)
        if word not in self.classes:
            raise RowError(self.label, "is none of the schema's classes")
        return np.array(numbers, dtype=np.float32), self.classes.index(word)

    def to_json(self) -> dict[str, Any]:
        """Returns the canonical form."""
        return {
            "features": [feature.to_json() for feature in self.features],
            "label": {"name": self.label, "classes": list(self.classes)},
        }

    @classmethod
    def from_json(cls, value: Any) -> Schema:
        """Reads the canonical form; raises `SchemaError`."""
        try:
            features = tuple(
                Categorical(str(each["name"]), tuple(map(str, each["values"])))
                if "values" in each
                else Continuous(str(each["name"]), float(each["low"]), float(each["high"]))
                for each in value["features"]
            )
            label = value["label"]
            return cls(features, str(label["name"]), tuple(map(str, label["classes"])))
        except (KeyError, TypeError, ValueError) as error:
            raise SchemaError(f"not a schema: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Schema:
        """Reads JSON, canonical or not; raises `SchemaError`."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SchemaError(f"not a schema: {error}") from error
        return cls.from_json(value)

    @cached_property
    def canonical(self) -> bytes:
        """Bytes that are equal for equal schemas."""
        return json.dumps(
            self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()

    @cached_property
    def sha256(self) -> bytes:
        """What participants pin."""
        return hashlib.sha256(self.canonical).digest()


def _cell(row: dict[str, str], column: str) -> str:
    text = row.get(column)
    if text is None or not text.strip():
        raise RowError(column, "is missing")
    return text.strip()
