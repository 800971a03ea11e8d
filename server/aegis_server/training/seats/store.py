"""SQL of the participants of runs, and of what they were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.rows import class_row

from aegis.serving.database import Connection


@dataclass(frozen=True, slots=True)
class StoredSite:
    """A row of aegis.run_site: a participant of a run, and the weight of its updates."""

    run_id: str
    name: str
    node_id: int
    examples: int


async def insert_sites(connection: Connection, sites: Sequence[StoredSite]) -> None:
    """Stores who takes part in a run."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "insert into aegis.run_site (run_id, name, node_id, examples) values (%s, %s, %s, %s)",
            [(site.run_id, site.name, site.node_id, site.examples) for site in sites],
        )


async def sites_of(connection: Connection, run_ids: Sequence[str]) -> list[StoredSite]:
    """Returns who takes part in these runs, in the order of node ids."""
    async with connection.cursor(row_factory=class_row(StoredSite)) as cursor:
        await cursor.execute(
            """
            select run_id, name, node_id, examples from aegis.run_site
            where run_id = any(%s) order by run_id, node_id
            """,
            (list(run_ids),),
        )
        return await cursor.fetchall()


async def enrolled_for(
    connection: Connection, run_id: str, dataset: str, names: Sequence[str]
) -> list[StoredSite]:
    """Returns who is enrolled and has declared rows of a data set; among `names`, if there are any.

    Nobody counts for more rows than it was invited with.
    """
    async with connection.cursor(row_factory=class_row(StoredSite)) as cursor:
        await cursor.execute(
            """
            select %(run_id)s::text as run_id, p.name, p.node_id,
                   least(h.rows, h.rows_max) as examples
            from aegis.participant p join aegis.holding h on h.participant = p.name
            where p.state = 2 and h.dataset = %(dataset)s and h.rows is not null
                  and (%(names)s::text[] = '{}' or p.name = any(%(names)s))
            order by p.node_id
            """,
            {"run_id": run_id, "dataset": dataset, "names": list(names)},
        )
        return await cursor.fetchall()


async def task_steps(
    connection: Connection, run_id: str, number: int | None = None
) -> dict[str, int]:
    """Returns the private steps that tasks of a run, or of one round, may have cost each site.

    A task that is still open may cost all that it asks for.
    """
    cursor = await connection.execute(
        """
        select participant, sum(case when ended = 0 then steps else steps_spent end)
        from aegis.training_task
        where run_id = %(run_id)s and (%(round)s::int is null or round = %(round)s)
        group by participant
        """,
        {"run_id": run_id, "round": number},
    )
    return {name: int(steps) for name, steps in await cursor.fetchall()}
