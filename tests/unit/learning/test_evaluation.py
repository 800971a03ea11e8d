"""Evaluation rows as a file, and schemas as messages: what was sent is what arrives."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

from aegis.schemas import message_of, schema_of
from aegis_learning import evaluation
from aegis_learning.datasets import load
from aegis_learning.parameters import FormatError, ShapeError
from aegis_learning.schema import Categorical, Continuous, Schema


def test_rows_come_back_as_they_were() -> None:
    """Bit for bit, and equal rows give equal bytes."""
    data = load("breast-cancer")
    encoded = evaluation.encode(data.golden, data.test)
    golden, test = evaluation.decode(encoded, data.features)
    assert np.array_equal(golden.x, data.golden.x)
    assert np.array_equal(test.y, data.test.y)
    assert encoded == evaluation.encode(golden, test)


@pytest.mark.parametrize(
    "tensors",
    [
        {"golden.x": np.zeros((2, 3), np.float32)},
        {"golden.x": np.zeros((2, 4), np.float32), "golden.y": np.zeros(2, np.int64)},
        {"golden.x": np.zeros((2, 3), np.float64), "golden.y": np.zeros(2, np.int64)},
        {"golden.x": np.zeros((2, 3), np.float32), "golden.y": np.zeros(3, np.int64)},
    ],
    ids=["without labels", "too wide", "other type", "other length"],
)
def test_rows_that_are_none_are_refused(tensors: dict[str, np.ndarray]) -> None:
    """Missing, of other features, of another type, with other labels."""
    with pytest.raises(ShapeError):
        evaluation.decode(safetensors.numpy.save(tensors), 3)
    with pytest.raises(FormatError):
        evaluation.decode(b"no file", 3)


def test_schema_comes_back_with_its_digest() -> None:
    """Numbers and words alike."""
    schema = Schema(
        (Continuous("age", 0, 120), Categorical("sex", ("f", "m"))), "ill", ("no", "yes")
    )
    for each in (schema, load("breast-cancer").schema):
        assert schema_of(message_of(each)) == each
        assert schema_of(message_of(each)).sha256 == each.sha256
