"""Tables of rows as CSV, read by a schema: what fits becomes numbers, what does not is counted.

What was dropped is told by column and problem, never by value: a report about private rows goes to
people who may not see them.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from aegis_learning.rows import Split
from aegis_learning.schema import RowError, Schema


class TableError(ValueError):
    """The file is no table of this schema at all; `row` and `problem` are of its first row, when
    none fits.
    """

    def __init__(
        self, message: str, *, row: int | None = None, problem: RowError | None = None
    ) -> None:
        super().__init__(message)
        self.row = row
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that fit, in order; `dropped` counts the others by "column: problem".

    `first` is the number of the first row that was dropped (the header is row 1), or None, and
    `first_problem` what was wrong with it.
    """

    rows: Split
    dropped: Mapping[str, int]
    first: int | None = None
    first_problem: RowError | None = None

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Rows of each class that occurs, by class number."""
        return tuple(int(count) for count in np.bincount(self.rows.y))


def read_csv(text: str, schema: Schema) -> Table:
    """Reads a CSV with a header line; columns the schema does not name are ignored.

    Raises `TableError` when a column is missing or nothing fits.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = list(reader.fieldnames or ())
        wanted = [feature.name for feature in schema.features] + [schema.label]
        missing = [name for name in wanted if name not in header]
        if missing:
            raise TableError(f"column {missing[0]} is missing, {len(missing)} in all")
        if len(set(header)) != len(header):
            raise TableError("a column occurs twice")
        return _table(reader, schema)
    except csv.Error as error:
        raise TableError(f"not a CSV file: {error}") from error


def _table(reader: Iterable[dict[str, str]], schema: Schema) -> Table:
    features, labels = [], []
    dropped: Counter[str] = Counter()
    first, first_problem = None, None
    for number, row in enumerate(reader, 2):
        try:
            x, y = schema.encode(row)
        except RowError as error:
            dropped[str(error)] += 1
            if first is None:
                first, first_problem = number, error
            continue
        features.append(x)
        labels.append(y)
    if not labels:
        if not dropped:
            raise TableError("there are no rows")
        raise TableError("no row fits the schema", row=first, problem=first_problem)
    rows = Split(np.stack(features), np.array(labels, dtype=np.int64))
    return Table(rows, dict(dropped), first, first_problem)
