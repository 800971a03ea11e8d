"""A site's table as numbers: read by the pinned schema, once for every version of the file."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from aegis_learning.datasets import Split
from aegis_learning.schema import Schema, SchemaError
from aegis_learning.tables import Table, TableError, read_csv


def read_table(file: Path, schema: Schema) -> Table:
    """Returns the rows that fit, and what was dropped.

    Raises OSError and `TableError`, whose texts hold no value of a row.
    """
    try:
        # Spreadsheets put a mark of the byte order in front of the first column's name.
        return read_csv(file.read_text(encoding="utf-8-sig"), schema)
    except UnicodeDecodeError:
        # Its text would quote the bytes.
        raise TableError("not UTF-8 text") from None


def version(file: Path) -> tuple[int, int]:
    """Returns what changes when a file is written: its time and size; raises OSError."""
    found = file.stat()
    return found.st_mtime_ns, found.st_size


def read_rows(file: Path, schema_file: Path) -> Split:
    """Returns the rows that fit; the same file is read once.

    Raises OSError, `SchemaError` and `TableError`, whose texts hold no value of a row.
    """
    return _rows(file, version(file), schema_file, version(schema_file))


def read_schema(file: Path) -> Schema:
    """Returns the schema in a file; raises OSError and `SchemaError`."""
    return _schema(file, version(file))


@lru_cache(maxsize=4)
def _schema(file: Path, _version: tuple[int, int]) -> Schema:
    try:
        return Schema.from_json(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise SchemaError(f"{file.name} is no schema") from error


@lru_cache(maxsize=2)
def _rows(
    file: Path, _version: tuple[int, int], schema_file: Path, _schema_version: tuple[int, int]
) -> Split:
    return read_table(file, read_schema(schema_file)).rows
