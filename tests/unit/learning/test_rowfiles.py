"""Files of rows: what fits a schema, and how what does not is named."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from aegis_learning import rowfiles
from aegis_learning.datasets import SCHEMA, Split, load
from aegis_learning.rowfiles import RowsError
from aegis_learning.schema import Categorical, Continuous, Schema
from aegis_learning.tables import read_csv

WARD = Schema(
    (Continuous("age", 0, 100), Categorical("sex", ("f", "m"))), "outcome", ("well", "ill")
)
CSV = "outcome,age,sex\nill,50,m\nwell,0,f\nwell,100,m\n"


def ward_rows() -> Split:
    return read_csv(CSV, WARD).rows


def spoilt(**cells: tuple[int, Any]) -> bytes:
    """A file with one cell changed: x0, x1, x2 or y, at a row from 0."""
    rows = ward_rows()
    for name, (row, value) in cells.items():
        if name == "y":
            rows.y[row] = value
        else:
            rows.x[row, int(name[1:])] = value
    return rowfiles.encode(rows)


def arrays(**changes: Any) -> bytes:
    """A file of the rows' arrays, some of them replaced."""
    found = {"x": ward_rows().x, "y": ward_rows().y} | changes
    return safetensors.numpy.save({name: each for name, each in found.items() if each is not None})


def test_rows_come_back_as_they_were():
    """Those of a CSV file, and those that ship."""
    for rows, schema in ((ward_rows(), WARD), (load("breast-cancer").golden, SCHEMA)):
        again = rowfiles.decode(rowfiles.encode(rows), schema)
        assert np.array_equal(again.x, rows.x)
        assert np.array_equal(again.y, rows.y)
        assert len(rowfiles.encode(rows)) <= rowfiles.bytes_max(schema, len(rows))


@pytest.mark.parametrize(
    ("data", "row", "column"),
    [
        pytest.param(spoilt(x0=(2, np.nan)), 3, "age", id="nan"),
        pytest.param(spoilt(x0=(0, np.inf)), 1, "age", id="infinity"),
        pytest.param(spoilt(x0=(1, -1.5)), 2, "age", id="out of bounds"),
        pytest.param(spoilt(x1=(2, 0.5)), 3, "sex", id="half a word"),
        pytest.param(spoilt(x1=(0, 1), x2=(0, 1)), 1, "sex", id="two words"),
        pytest.param(spoilt(x1=(0, -1), x2=(0, -1)), 1, "sex", id="no word"),
        pytest.param(spoilt(y=(1, 2)), 2, "outcome", id="class nobody knows"),
        pytest.param(spoilt(y=(0, -1)), 1, "outcome", id="class below zero"),
        pytest.param(rowfiles.encode(load("breast-cancer").golden), 0, "", id="another width"),
        pytest.param(pickle.dumps({"x": [1.0]}), 0, "", id="pickle"),
        pytest.param((10 * 2**30).to_bytes(8, "little") + b"{}", 0, "", id="10 GB header"),
        pytest.param(arrays(y=None), 0, "", id="no labels"),
        pytest.param(arrays(z=np.zeros(3)), 0, "", id="something else"),
        pytest.param(arrays(x=ward_rows().x.astype(np.float64)), 0, "", id="float64"),
        pytest.param(arrays(y=ward_rows().y.astype(np.int32)), 0, "", id="int32 labels"),
        pytest.param(arrays(y=ward_rows().y[:, None]), 0, "", id="labels in two dimensions"),
        pytest.param(arrays(x=ward_rows().x[1:]), 0, "", id="a label too many"),
    ],
)
def test_what_does_not_fit_is_named_by_row_and_column(data: bytes, row: int, column: str):
    """The first such row, and never its value."""
    with pytest.raises(RowsError) as refused:
        rowfiles.decode(data, WARD)
    assert (refused.value.row, refused.value.column) == (row, column)


def test_scaling_may_round_a_bound():
    """A number at its bound, computed in float64 and stored in float32, is inside."""
    edge = Schema((Continuous("value", 0.1, 0.7),), "label", ("a", "b"))
    rows = read_csv("label,value\na,0.1\nb,0.7\n", edge).rows
    assert len(rowfiles.decode(rowfiles.encode(rows), edge)) == 2
