"""SQL of registered data sets, which never change."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from aegis.serving.database import Connection


@dataclass(frozen=True, slots=True)
class StoredDataset:
    """A data set as it is stored; `schema` is canonical JSON, the evaluation rows are a blob."""

    name: str
    schema: bytes
    schema_sha256: bytes
    description: str
    provenance: str
    consent_basis: str
    public: bool
    owner: str
    created_at: datetime
    evaluation_sha256: bytes
    golden_rows: int
    test_rows: int


async def insert(connection: Connection, dataset: StoredDataset) -> bool:
    """Stores a data set; False when its name is taken."""
    cursor = await connection.execute(
        """
        insert into aegis.dataset
            (name, schema, schema_sha256, description, provenance, consent_basis, public, owner,
             created_at, evaluation_sha256, golden_rows, test_rows)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (name) do nothing
        """,
        (
            dataset.name,
            dataset.schema,
            dataset.schema_sha256,
            dataset.description,
            dataset.provenance,
            dataset.consent_basis,
            dataset.public,
            dataset.owner,
            dataset.created_at,
            dataset.evaluation_sha256,
            dataset.golden_rows,
            dataset.test_rows,
        ),
    )
    return cursor.rowcount == 1


async def find(connection: Connection, name: str) -> StoredDataset | None:
    """Returns a data set."""
    found = await _read(
        connection,
        """
        select name, schema, schema_sha256, description, provenance, consent_basis, public, owner,
               created_at, evaluation_sha256, golden_rows, test_rows
        from aegis.dataset where name = %s
        """,
        (name,),
    )
    return found[0] if found else None


async def everything(connection: Connection) -> list[StoredDataset]:
    """Returns data sets by name."""
    return await _read(
        connection,
        """
        select name, schema, schema_sha256, description, provenance, consent_basis, public, owner,
               created_at, evaluation_sha256, golden_rows, test_rows
        from aegis.dataset order by name collate "C"
        """,
        (),
    )


async def _read(connection: Connection, query: str, values: tuple[Any, ...]) -> list[StoredDataset]:
    async with connection.cursor(row_factory=class_row(StoredDataset)) as cursor:
        await cursor.execute(query.encode(), values)
        return await cursor.fetchall()
