"""SQL of what participants hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from psycopg.rows import class_row

from aegis.serving.database import Connection
from aegis_server.participants.store import ENROLLED


@dataclass(frozen=True, slots=True)
class StoredHolding:
    """What a participant was invited for; `rows` is None until it was declared."""

    participant: str
    dataset: str
    rows_max: int
    rows: int | None = None
    class_counts: list[int] = field(default_factory=list)
    noised: bool = False
    provenance: str = ""
    declared_at: datetime | None = None

    @property
    def examples(self) -> int:
        """What counts: the rows, at most the bound of the invitation."""
        return min(self.rows or 0, self.rows_max)


async def replace_holdings(
    connection: Connection, participant: str, bounds: Sequence[tuple[str, int]]
) -> None:
    """Stores what a participant is invited for, in place of what it was."""
    await connection.execute("delete from aegis.holding where participant = %s", (participant,))
    for dataset, rows_max in bounds:
        await connection.execute(
            "insert into aegis.holding (participant, dataset, rows_max) values (%s, %s, %s)",
            (participant, dataset, rows_max),
        )


async def declare(connection: Connection, holding: StoredHolding) -> StoredHolding | None:
    """Stores what a participant says it holds; None when it was not invited for that."""
    async with connection.cursor(row_factory=class_row(StoredHolding)) as cursor:
        await cursor.execute(
            """
            update aegis.holding
            set rows = %(rows)s, class_counts = %(class_counts)s, noised = %(noised)s,
                provenance = %(provenance)s, declared_at = %(declared_at)s
            where participant = %(participant)s and dataset = %(dataset)s
            returning participant, dataset, rows_max, rows, class_counts, noised, provenance,
                      declared_at
            """,
            {
                "participant": holding.participant,
                "dataset": holding.dataset,
                "rows": holding.rows,
                "class_counts": holding.class_counts,
                "noised": holding.noised,
                "provenance": holding.provenance,
                "declared_at": holding.declared_at,
            },
        )
        return await cursor.fetchone()


async def holdings_of(connection: Connection, participants: Sequence[str]) -> list[StoredHolding]:
    """Returns what these participants were invited for, declared or not, by data set."""
    async with connection.cursor(row_factory=class_row(StoredHolding)) as cursor:
        await cursor.execute(
            """
            select participant, dataset, rows_max, rows, class_counts, noised, provenance,
                   declared_at
            from aegis.holding where participant = any(%s) order by participant, dataset
            """,
            (list(participants),),
        )
        return await cursor.fetchall()


async def holdings_for(connection: Connection, datasets: Sequence[str]) -> list[StoredHolding]:
    """Returns what enrolled participants have declared of these data sets."""
    async with connection.cursor(row_factory=class_row(StoredHolding)) as cursor:
        await cursor.execute(
            """
            select h.participant, h.dataset, h.rows_max, h.rows, h.class_counts, h.noised,
                   h.provenance, h.declared_at
            from aegis.holding h join aegis.participant p on p.name = h.participant
            where h.dataset = any(%s) and h.rows is not null and p.state = %s
            order by h.dataset, h.participant
            """,
            (list(datasets), ENROLLED),
        )
        return await cursor.fetchall()
