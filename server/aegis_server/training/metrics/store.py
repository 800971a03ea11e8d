"""SQL of what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from aegis.serving.database import Connection


@dataclass(frozen=True, slots=True)
class MeasuredRound:
    """A round as the server knows it; `asked` participants have a row, `before` ended the last."""

    run_id: str
    round: int
    accuracy: float
    loss: float
    epsilon: float
    completed_at: datetime
    before: datetime | None
    asked: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What the server knows of a participant's round."""

    round: int
    participant: str
    outcome: int
    examples: int
    loss: float
    accuracy: float
    auc: float
    epsilon: float
    steps: int
    seconds: float
    bytes_sent: int
    bytes_received: int
    tries: int


async def plan_of(connection: Connection, run_id: str) -> bytes | None:
    """Returns the serialised plan of a run."""
    cursor = await connection.execute("select plan from aegis.run where run_id = %s", (run_id,))
    row = await cursor.fetchone()
    return None if row is None else bytes(row[0])


async def rounds_after(connection: Connection, run_id: str, after: int) -> list[MeasuredRound]:
    """Returns the rounds of a run behind number `after`, in order."""
    async with connection.cursor(row_factory=class_row(MeasuredRound)) as cursor:
        await cursor.execute(
            """
            select q.run_id, q.round, q.accuracy, q.loss, q.epsilon, q.completed_at,
                   b.completed_at as before,
                   (select count(*) from aegis.run_participant p
                    where p.run_id = q.run_id and p.round = q.round) as asked
            from aegis.run_round q
            left join aegis.run_round b on b.run_id = q.run_id and b.round = q.round - 1
            where q.run_id = %s and q.round > %s order by q.round
            """,
            (run_id, after),
        )
        return await cursor.fetchall()


async def participants_between(
    connection: Connection, run_id: str, first: int, last: int
) -> list[Measured]:
    """Returns what became of the participants of these rounds."""
    async with connection.cursor(row_factory=class_row(Measured)) as cursor:
        await cursor.execute(
            """
            select round, participant, outcome, examples, loss, accuracy, auc, epsilon, steps,
                   seconds, bytes_sent, bytes_received, tries
            from aegis.run_participant where run_id = %s and round between %s and %s
            order by round, length(participant), participant
            """,
            (run_id, first, last),
        )
        return await cursor.fetchall()
