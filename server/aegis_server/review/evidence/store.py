"""SQL of evidence: what a bundle is made of, and which one was made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from aegis.serving.database import Connection


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """An update with its evidence, and its bundle once there is one."""

    update_id: str
    run_id: str
    round: int
    attempt: int
    participant: str
    sha256: bytes
    reviewed_at: datetime | None
    golden_sha256: bytes
    evidence_sha256: bytes
    bundle_sha256: bytes | None


async def find(connection: Connection, update_id: str) -> JudgedRow | None:
    """Returns one update."""
    async with connection.cursor(row_factory=class_row(JudgedRow)) as cursor:
        await cursor.execute(
            """
            select u.update_id, u.run_id, u.round, u.attempt, u.participant, u.sha256,
                u.reviewed_at, u.golden_sha256, u.evidence_sha256, b.sha256 as bundle_sha256
            from aegis.review_update u left join aegis.review_bundle b using (update_id)
            where u.update_id = %s
            """,
            (update_id,),
        )
        return await cursor.fetchone()


async def keep(
    connection: Connection, update_id: str, *, sha256: bytes, size_bytes: int, now: datetime
) -> bool:
    """Notes the update's bundle; False when another server was quicker, whose bundle stands."""
    cursor = await connection.execute(
        """
        insert into aegis.review_bundle (update_id, sha256, size_bytes, created_at)
        values (%s, %s, %s, %s) on conflict do nothing
        """,
        (update_id, sha256, size_bytes, now),
    )
    return cursor.rowcount == 1
