"""SQL of the training room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from psycopg.rows import class_row

from aegis.serving.database import Connection

_CLAIM = 0x72756E  # "run"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A row of aegis.run."""

    run_id: str
    request_id: UUID
    plan: bytes
    state: int
    reason: str
    actor: str
    policy_revision: int
    rule_id: str
    noise_multiplier: float
    attempt: int
    created_at: datetime
    updated_at: datetime
    creator: str
    start_request_id: UUID | None = None
    attempt_settled: int = 0
    steps_settled: int | None = None


@dataclass(frozen=True, slots=True)
class StoredRound:
    """A row of aegis.run_round."""

    run_id: str
    round: int
    attempt: int
    model_sha256: bytes
    accuracy: float
    loss: float
    epsilon: float
    steps: int
    completed_at: datetime
    state_sha256: bytes = b""
    # Why its model is a median only, if it is.
    fallback: str = ""
    scan: bytes = b""


@dataclass(frozen=True, slots=True)
class StoredParticipant:
    """A row of aegis.run_participant."""

    run_id: str
    round: int
    participant: str
    loss: float
    accuracy: float
    epsilon: float
    examples: int
    outcome: int
    update_id: str
    reason: str
    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    tries: int = 0
    steps: int = 0
    auc: float = 0.0


async def _insert(connection: Connection, table: str, rows: Sequence[Any]) -> int:
    if not rows:
        return 0
    names = type(rows[0]).__slots__
    columns = ", ".join(names)
    places = ", ".join(f"%({name})s" for name in names)
    statement = f"insert into aegis.{table} ({columns}) values ({places}) on conflict do nothing"  # noqa: S608
    async with connection.cursor() as cursor:
        await cursor.executemany(
            statement, [{name: getattr(row, name) for name in names} for row in rows]
        )
        return cursor.rowcount


async def insert_run(connection: Connection, run: StoredRun) -> bool:
    """Stores a new run; False when its request_id is taken."""
    return await _insert(connection, "run", [run]) == 1


_RUN = """
    select run_id, request_id, plan, state, reason, actor, policy_revision, rule_id,
           noise_multiplier, attempt, created_at, updated_at, creator, start_request_id,
           attempt_settled, steps_settled
    from aegis.run
"""


async def run_of(connection: Connection, run_id: str, *, lock: bool = False) -> StoredRun | None:
    """Returns a run; with `lock`, nobody else changes it before this transaction ends."""
    async with connection.cursor(row_factory=class_row(StoredRun)) as cursor:
        await cursor.execute(
            _RUN + "where run_id = %s" + (" for update" if lock else ""), (run_id,)
        )
        return await cursor.fetchone()


async def run_of_request(connection: Connection, request_id: UUID) -> StoredRun | None:
    """Returns the run a request created or started."""
    async with connection.cursor(row_factory=class_row(StoredRun)) as cursor:
        await cursor.execute(
            _RUN + "where request_id = %(id)s or start_request_id = %(id)s", {"id": request_id}
        )
        return await cursor.fetchone()


async def runs_of(connection: Connection, run_ids: Sequence[str]) -> dict[str, StoredRun]:
    """Returns those of the runs that are there."""
    async with connection.cursor(row_factory=class_row(StoredRun)) as cursor:
        await cursor.execute(_RUN + "where run_id = any(%s)", (list(run_ids),))
        return {run.run_id: run for run in await cursor.fetchall()}


async def set_starter(
    connection: Connection,
    run_id: str,
    *,
    request_id: UUID,
    actor: str,
    policy_revision: int,
    rule_id: str,
) -> None:
    """Writes down who starts a run, by which request, and which rule allows it."""
    await connection.execute(
        """
        update aegis.run
        set start_request_id = %s, actor = %s, policy_revision = %s, rule_id = %s
        where run_id = %s
        """,
        (request_id, actor, policy_revision, rule_id, run_id),
    )


async def runs_before(connection: Connection, *, before: str | None, limit: int) -> list[StoredRun]:
    """Returns runs, newest first; run ids grow with time."""
    async with connection.cursor(row_factory=class_row(StoredRun)) as cursor:
        await cursor.execute(
            _RUN + "where %(before)s::text is null or run_id < %(before)s"
            " order by run_id desc limit %(limit)s",
            {"before": before, "limit": limit},
        )
        return await cursor.fetchall()


async def open_runs(connection: Connection) -> list[str]:
    """Returns the ids of all runs that want a coordinator, oldest first."""
    cursor = await connection.execute(
        "select run_id from aegis.run where state in (1, 2, 3, 8) order by run_id"
    )
    return [run_id for (run_id,) in await cursor.fetchall()]


async def set_state(
    connection: Connection, run_id: str, *, state: int, reason: str, at: datetime
) -> None:
    """Moves a run to a state."""
    await connection.execute(
        "update aegis.run set state = %s, reason = %s, updated_at = %s where run_id = %s",
        (state, reason, at, run_id),
    )


async def settle_attempt(connection: Connection, run_id: str) -> None:
    """Writes down that all coordinators so far have told everything they asked for."""
    await connection.execute(
        "update aegis.run set attempt_settled = attempt where run_id = %s", (run_id,)
    )


async def set_steps(connection: Connection, run_id: str, steps: int) -> None:
    """Writes down the private steps of the participant that took most, once a run has ended."""
    await connection.execute(
        "update aegis.run set steps_settled = %s where run_id = %s", (steps, run_id)
    )


async def next_attempt(connection: Connection, run_id: str, at: datetime) -> int | None:
    """Counts one more coordinator of an open run and returns its number."""
    cursor = await connection.execute(
        """
        update aegis.run set attempt = attempt + 1, updated_at = %s
        where run_id = %s and state in (1, 2, 3, 8) returning attempt
        """,
        (at, run_id),
    )
    row = await cursor.fetchone()
    return None if row is None else cast(int, row[0])


async def claim(connection: Connection, run_id: str) -> bool:
    """Takes the right to coordinate a run until this transaction ends; False when it is taken.

    Postgres gives the right back by itself when the holder's connection breaks.
    """
    cursor = await connection.execute(
        "select pg_try_advisory_xact_lock(%s, hashtext(%s))", (_CLAIM, run_id)
    )
    row = await cursor.fetchone()
    return row is not None and bool(row[0])


async def insert_round(
    connection: Connection, stored: StoredRound, participants: Sequence[StoredParticipant]
) -> None:
    """Stores a completed round and what became of its participants."""
    await _insert(connection, "run_round", [stored])
    await _insert(connection, "run_participant", participants)
    await connection.execute(
        "update aegis.run set updated_at = %s where run_id = %s",
        (stored.completed_at, stored.run_id),
    )


_ROUND = """
    select run_id, round, attempt, model_sha256, accuracy, loss, epsilon, steps, completed_at,
           state_sha256, fallback, scan
    from aegis.run_round
"""


async def round_of(connection: Connection, run_id: str, number: int) -> StoredRound | None:
    """Returns one round."""
    async with connection.cursor(row_factory=class_row(StoredRound)) as cursor:
        await cursor.execute(_ROUND + "where run_id = %s and round = %s", (run_id, number))
        return await cursor.fetchone()


async def last_rounds(connection: Connection, run_ids: Sequence[str]) -> dict[str, StoredRound]:
    """Returns the newest round of each of these runs that has one."""
    async with connection.cursor(row_factory=class_row(StoredRound)) as cursor:
        await cursor.execute(
            "select distinct on (run_id) run_id, round, attempt, model_sha256, accuracy, loss,"
            " epsilon, steps, completed_at, state_sha256, fallback, scan from aegis.run_round"
            " where run_id = any(%s) order by run_id, round desc",
            (list(run_ids),),
        )
        return {found.run_id: found for found in await cursor.fetchall()}


async def rounds_after(connection: Connection, run_id: str, after: int) -> list[StoredRound]:
    """Returns the rounds of a run behind number `after`, in order."""
    async with connection.cursor(row_factory=class_row(StoredRound)) as cursor:
        await cursor.execute(
            _ROUND + "where run_id = %s and round > %s order by round", (run_id, after)
        )
        return await cursor.fetchall()


async def participants_after(
    connection: Connection, run_id: str, after: int
) -> list[StoredParticipant]:
    """Returns what became of the participants in those rounds, by round."""
    async with connection.cursor(row_factory=class_row(StoredParticipant)) as cursor:
        await cursor.execute(
            """
            select run_id, round, participant, loss, accuracy, epsilon, examples, outcome,
                   update_id, reason, seconds, bytes_sent, bytes_received, tries, steps, auc
            from aegis.run_participant where run_id = %s and round > %s
            order by round, length(participant), participant
            """,
            (run_id, after),
        )
        return await cursor.fetchall()


async def steps_of(connection: Connection, run_id: str) -> dict[str, int]:
    """Returns the private steps each participant may have taken in the stored rounds."""
    cursor = await connection.execute(
        "select participant, sum(steps) from aegis.run_participant where run_id = %s"
        " group by participant",
        (run_id,),
    )
    return {name: int(steps) for name, steps in await cursor.fetchall()}


async def losses_of(connection: Connection, run_id: str) -> list[float]:
    """Returns the losses of a run's global models, the initial one's first."""
    cursor = await connection.execute(
        "select loss from aegis.run_round where run_id = %s order by round", (run_id,)
    )
    return [loss for (loss,) in await cursor.fetchall()]
