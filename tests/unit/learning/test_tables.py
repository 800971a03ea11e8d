"""Tables of rows, read by a schema."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_learning.datasets import SCHEMA, load
from aegis_learning.schema import Categorical, Continuous, Schema, SchemaError
from aegis_learning.tables import TableError, read_csv

PATIENTS = Schema(
    (Continuous("age", 0, 100), Categorical("sex", ("f", "m"))), "outcome", ("well", "ill")
)
HEADER = "outcome,age,sex,ward\n"


def test_columns_are_mapped_by_public_bounds_and_nothing_else():
    """The same row becomes the same numbers whatever the other rows are."""
    table = read_csv(HEADER + "ill,50,f,3\nwell,120,m,4\n", PATIENTS)
    assert table.rows.x.tolist() == [[0.0, 1.0, -1.0], [1.0, -1.0, 1.0]]
    assert table.rows.y.tolist() == [1, 0]
    assert table.class_counts == (1, 1)
    assert not table.dropped


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ill,nan,f,1", "age: is not finite"),
        ("ill,old,f,1", "age: is not a number"),
        ("ill,,f,1", "age: is missing"),
        ("ill,5", "sex: is missing"),
        ("ill,5,x,1", "sex: is none of the schema's values"),
        ("dead,5,f,1", "outcome: is none of the schema's classes"),
    ],
)
def test_row_that_does_not_fit_is_counted_without_its_value(line: str, problem: str):
    """What is told about dropped rows holds nothing of them."""
    table = read_csv(HEADER + "well,1,f,1\n" + line + "\n", PATIENTS)
    assert len(table.rows) == 1
    assert table.dropped == {problem: 1}
    assert table.first == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column age is missing, 3 in all"),
        ("age,sex\n1,f\n", "column outcome is missing, 1 in all"),
        (HEADER, "there are no rows"),
        (HEADER + "dead,1,f,1\n", "no row fits the schema"),
        ("age,age,sex,outcome\n1,1,f,ill\n", "a column occurs twice"),
        (HEADER + '"ill,1,f,1\n', "not a CSV file"),
    ],
)
def test_file_that_is_no_such_table_is_refused(text: str, message: str):
    """A site with an empty or foreign file learns what is wrong with it."""
    with pytest.raises(TableError, match=message):
        read_csv(text, PATIENTS)


@pytest.mark.parametrize(
    ("features", "classes"),
    [
        ((), ("a", "b")),
        ((Continuous("x", 1, 1),), ("a", "b")),
        ((Continuous("x", 0, float("inf")),), ("a", "b")),
        ((Continuous("x", 0, 1), Continuous("x", 0, 1)), ("a", "b")),
        ((Continuous("y", 0, 1),), ("a", "b")),
        ((Categorical("x", ("only",)),), ("a", "b")),
        ((Continuous("x", 0, 1),), ("a",)),
        ((Continuous("x", 0, 1),), ("a", "a")),
    ],
)
def test_schema_that_makes_no_sense_is_refused(features, classes):
    """Before anybody trains by it."""
    with pytest.raises(SchemaError):
        Schema(features, "y", classes)


def test_canonical_form_is_read_back_and_named_by_its_digest():
    """Participants pin the digest."""
    again = Schema.from_json(PATIENTS.to_json())
    assert again == PATIENTS
    assert again.sha256 == PATIENTS.sha256 != SCHEMA.sha256
    with pytest.raises(SchemaError, match="not a schema"):
        Schema.from_json({"features": [{"name": "x"}]})


def test_shipped_data_fits_its_own_schema():
    """What a hospital would send through the schema is what the shipped split holds."""
    data = load("breast-cancer")
    row, label = data.golden.x[0], int(data.golden.y[0])
    cells = {
        feature.name: repr(float((value + 1) / 2 * (feature.high - feature.low) + feature.low))
        for feature, value in zip(SCHEMA.features, row.astype(float), strict=True)
        if isinstance(feature, Continuous)
    }
    x, y = SCHEMA.encode({**cells, "diagnosis": SCHEMA.classes[label]})
    np.testing.assert_allclose(x, row, atol=1e-6)
    assert y == label
