"""What the report is built of: sections with tables and charts, the same in HTML and PDF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aegis.audit.report.cells import cell
from aegis.audit.report.charts import Bar, Share

# Of a table; all of it is in the JSON.
ROWS_MAX = 100


@dataclass(frozen=True, slots=True)
class Table:
    """A table; columns whose name ends in "#" are numbers, and columns in "=" are digests."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    empty: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report; charts come before the tables."""

    anchor: str
    title: str
    lead: str
    tables: tuple[Table, ...]
    bars: tuple[Bar, ...] = ()
    shares: tuple[Share, ...] = ()


def table(
    title: str, columns: str, rows: Sequence[tuple[object, ...]], empty: str, note: str = ""
) -> Table:
    """Returns a table of at most `ROWS_MAX` rows; `columns` are separated by "|"."""
    cells = tuple(tuple(cell(value) for value in row) for row in rows[:ROWS_MAX])
    if len(rows) > ROWS_MAX:
        note = f"{note} {len(rows) - ROWS_MAX:,} more are in the JSON.".strip()
    return Table(title, tuple(columns.split("|")), cells, empty, note)
