"""Evaluation rows: from the CSV that registered them to a blob, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import safetensors.numpy

from aegis.errors import AegisError, FieldViolation, InvalidArgument
from aegis_learning.datasets import Split, split_evaluation
from aegis_learning.schema import RowError, Schema
from aegis_learning.tables import TableError, read_csv


@dataclass(frozen=True, slots=True)
class Asked:
    """What was sent: a CSV with a header line, and the share of rows that the review gets."""

    csv: bytes
    schema: Schema
    golden_share: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Disjoint rows: the review's, and the final test's."""

    golden: Split
    test: Split

    def to_bytes(self) -> bytes:
        """Returns a safetensors file; equal rows give equal bytes."""
        parts = {"golden": self.golden, "test": self.test}
        return safetensors.numpy.save(
            {
                f"{name}.{kind}": np.ascontiguousarray(values)
                for name, split in parts.items()
                for kind, values in (("x", split.x), ("y", split.y))
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Evaluation:
        """Reads what `to_bytes` returned, which nobody else can have written."""
        found = safetensors.numpy.load(data)
        return cls(
            Split(found["golden.x"], found["golden.y"]), Split(found["test.x"], found["test.y"])
        )


def read(asked: Asked) -> Evaluation | AegisError:
    """Reads and splits the rows, in a worker process.

    Returns `InvalidArgument` instead (DATASET_ROWS_INVALID for the first row that does not fit,
    else FIELD_INVALID), because an error of ours does not cross processes.
    """
    try:
        text = asked.csv.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _invalid("this is not UTF-8")
    try:
        table = read_csv(text, asked.schema)
    except TableError as error:
        if error.row is None or error.problem is None:
            return _invalid(str(error))
        return _row_invalid(error.row, error.problem)
    if table.first is not None and table.first_problem is not None:
        return _row_invalid(table.first, table.first_problem)
    missing = set(range(len(asked.schema.classes))) - set(table.rows.y.tolist())
    if missing:
        return _invalid(f"no row is of class {asked.schema.classes[min(missing)]}")
    try:
        return Evaluation(*split_evaluation(table.rows, asked.golden_share))
    except ValueError as error:
        return _invalid(str(error))


def _row_invalid(row: int, problem: RowError) -> InvalidArgument:
    return InvalidArgument(
        "DATASET_ROWS_INVALID",
        f"row {row}, {problem.column}: {problem.problem}",
        row=row,
        column=problem.column,
    )


def _invalid(text: str) -> InvalidArgument:
    violation = FieldViolation("evaluation_csv", text)
    return InvalidArgument("FIELD_INVALID", f"evaluation_csv: {text}", violations=[violation])
