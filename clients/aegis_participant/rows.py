"""What is in a site's tables, for tasks and for the people of the site: counts, never values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aegis.errors import FailedPrecondition
from aegis_learning.tables import TableError
from aegis_participant.settings import DataSet
from aegis_participant.tables import read_table, version


@dataclass(frozen=True, slots=True)
class Count:
    """What is in a file: rows that fit, by class in the schema's order, and what was dropped.

    `dropped` counts by "column: problem" and never holds a value.
    """

    rows: int
    classes: Mapping[str, int]
    dropped: Mapping[str, int]

    @property
    def warnings(self) -> list[str]:
        """Returns what somebody should look at."""
        found = []
        if self.dropped:
            worst = ", ".join(f"{what} ({n})" for what, n in sorted(self.dropped.items())[:5])
            found.append(f"{sum(self.dropped.values())} rows dropped: {worst}")
        present = [name for name, count in self.classes.items() if count]
        if len(present) == 1:
            found.append("every row is of one class: its updates say little about the others")
        return found


class Counts:
    """Counts of files, looked at again when a file has changed; the rows are not kept."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int], Count]] = {}

    def of(self, data: DataSet) -> Count:
        """Returns what is in a data set's file.

        Raises `FailedPrecondition` (DATASET_ROWS_INVALID) when there is no row that fits.
        """
        try:
            current = version(data.file)
            known = self._known.get(data.name)
            if known is None or known[0] != current:
                self._known[data.name] = known = (current, _count(data))
        except OSError as error:
            raise _refused(data.name, f"its file cannot be read: {type(error).__name__}") from error
        except TableError as error:
            raise _refused(data.name, str(error)) from error
        return known[1]


def _refused(name: str, problem: str) -> FailedPrecondition:
    return FailedPrecondition("DATASET_ROWS_INVALID", f"{name}: {problem}")


def _count(data: DataSet) -> Count:
    table = read_table(data.file, data.schema)
    counts = [*table.class_counts, *[0] * len(data.schema.classes)]
    return Count(
        len(table.rows), dict(zip(data.schema.classes, counts, strict=False)), table.dropped
    )
