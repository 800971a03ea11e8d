"""Evaluation rows: from the CSV that registered them to a blob, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import safetensors.numpy

from aegis.errors import FieldViolation, InvalidArgument
from aegis_learning.datasets import Split, split_evaluation
from aegis_learning.schema import Schema
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


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a file; `row` and `column` when it is one row that does not fit.

    A value, because errors of ours do not cross processes.
    """

    text: str
    row: int | None = None
    column: str = ""

    def error(self) -> InvalidArgument:
        """Returns DATASET_ROWS_INVALID or FIELD_INVALID."""
        if self.row is None:
            violation = FieldViolation("evaluation_csv", self.text)
            return InvalidArgument(
                "FIELD_INVALID", f"evaluation_csv: {self.text}", violations=[violation]
            )
        return InvalidArgument(
            "DATASET_ROWS_INVALID",
            f"row {self.row}, {self.column}: {self.text}",
            row=self.row,
            column=self.column,
        )


def read(asked: Asked) -> Evaluation | Fault:
    """Reads and splits the rows, in a worker process; every row has to fit."""
    try:
        text = asked.csv.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Fault("this is not UTF-8")
    try:
        table = read_csv(text, asked.schema)
    except TableError as error:
        if error.row is None or error.problem is None:
            return Fault(str(error))
        return Fault(error.problem.problem, error.row, error.problem.column)
    if table.first is not None and table.first_problem is not None:
        problem = table.first_problem
        return Fault(problem.problem, table.first, problem.column)
    missing = set(range(len(asked.schema.classes))) - set(table.rows.y.tolist())
    if missing:
        return Fault(f"no row is of class {asked.schema.classes[min(missing)]}")
    try:
        return Evaluation(*split_evaluation(table.rows, asked.golden_share))
    except ValueError as error:
        return Fault(str(error))
