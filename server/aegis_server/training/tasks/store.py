"""SQL of tasks and of the attendance of those who do them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg.rows import class_row

from aegis.serving.database import Connection

# Whoever listens on it is told "run:ID" or "participant:NAME" when something about it changed.
CHANNEL = "aegis_tasks"

# aegis.v1.CollectAnswersResponse.End, as the statements below write them.
_MISSED, _CANCELLED = 4, 5


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A row of aegis.training_task with what a site has to be told of its run.

    `over` says that nobody needs an answer any more: the round is complete, the run has ended, or
    the participant was revoked.
    """

    task_id: str
    run_id: str
    round: int
    repeat: int
    participant: str
    message_type: str
    group_id: str
    content_sha256: bytes
    content_size_bytes: int
    answer_bytes_max: int
    nonce: bytes
    mechanism: bytes
    steps: int
    created_at: datetime
    deadline: datetime
    received_at: datetime | None
    ended: int
    reason: str
    answer_sha256: bytes | None
    answer_size_bytes: int
    steps_spent: int
    seconds: float
    plan: bytes
    over: bool


class NewTask(NamedTuple):
    """What is written of a task when it is made."""

    task_id: str
    run_id: str
    round: int
    repeat: int
    participant: str
    message_type: str
    group_id: str
    content_sha256: bytes
    content_size_bytes: int
    answer_bytes_max: int
    nonce: bytes
    mechanism: bytes
    steps: int
    created_at: datetime
    deadline: datetime


_OVER = """(
    r.state in (4, 5, 6, 9)
    or exists (
        select from aegis.run_round d where d.run_id = t.run_id and d.round >= t.round
    )
    or exists (select from aegis.participant p where p.name = t.participant and p.state = 3)
)"""

_TASK = f"""
    select t.task_id, t.run_id, t.round, t.repeat, t.participant, t.message_type, t.group_id,
           t.content_sha256, t.content_size_bytes, t.answer_bytes_max, t.nonce, t.mechanism,
           t.steps, t.created_at, t.deadline, t.received_at, t.ended, t.reason, t.answer_sha256,
           t.answer_size_bytes, t.steps_spent, t.seconds, r.plan, {_OVER} as over
    from aegis.training_task t join aegis.run r on r.run_id = t.run_id
"""  # noqa: S608  # nothing in it comes from outside


async def insert_tasks(connection: Connection, tasks: Sequence[NewTask]) -> None:
    """Adds tasks; those that are there stay as they are."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            insert into aegis.training_task (
                task_id, run_id, round, repeat, participant, message_type, group_id,
                content_sha256, content_size_bytes, answer_bytes_max, nonce, mechanism, steps,
                created_at, deadline
            ) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            on conflict (run_id, round, repeat, participant, message_type) do nothing
            """,
            tasks,
        )


async def tasks_like(connection: Connection, task: NewTask) -> dict[str, StoredTask]:
    """Returns the tasks of a run, round, repeat and message type, by participant."""
    async with connection.cursor(row_factory=class_row(StoredTask)) as cursor:
        await cursor.execute(
            _TASK + "where (t.run_id, t.round, t.repeat, t.message_type) = (%s, %s, %s, %s)",
            (task.run_id, task.round, task.repeat, task.message_type),
        )
        return {found.participant: found for found in await cursor.fetchall()}


async def task_of(connection: Connection, task_id: str, *, lock: bool = False) -> StoredTask | None:
    """Returns a task; with `lock`, nobody else ends it before this transaction ends."""
    async with connection.cursor(row_factory=class_row(StoredTask)) as cursor:
        await cursor.execute(
            _TASK + "where t.task_id = %s" + (" for update of t" if lock else ""), (task_id,)
        )
        return await cursor.fetchone()


async def tasks_of(
    connection: Connection, run_id: str, task_ids: Iterable[str]
) -> list[StoredTask]:
    """Returns those of the tasks that are the run's, in the order they ended, open ones last."""
    async with connection.cursor(row_factory=class_row(StoredTask)) as cursor:
        await cursor.execute(
            _TASK + "where t.run_id = %s and t.task_id = any(%s) order by t.closed_at, t.task_id",
            (run_id, list(task_ids)),
        )
        return await cursor.fetchall()


async def open_tasks(connection: Connection, participant: str) -> list[StoredTask]:
    """Returns what a participant is still asked for, oldest first."""
    async with connection.cursor(row_factory=class_row(StoredTask)) as cursor:
        await cursor.execute(
            _TASK + f"where t.participant = %s and t.ended = 0 and not {_OVER}"
            " order by t.created_at, t.task_id",
            (participant,),
        )
        return await cursor.fetchall()


async def set_received(connection: Connection, task_id: str, at: datetime) -> None:
    """Notes that a task has arrived; the first word counts.

    Behind its end, too: it was missed or cancelled as one that had cost nothing, and now it has.
    """
    await connection.execute(
        f"""
        update aegis.training_task
        set received_at = %s, steps_spent = case when ended = 0 then 0 else steps end
        where task_id = %s and ended in (0, {_MISSED}, {_CANCELLED}) and received_at is null
        """,  # noqa: S608  # nothing in it comes from outside
        (at, task_id),
    )


class Ending(NamedTuple):
    """How a task ends."""

    ended: int
    reason: str = ""
    steps_spent: int = 0
    answer_sha256: bytes | None = None
    answer_size_bytes: int = 0


async def end_task(connection: Connection, task: StoredTask, ending: Ending, at: datetime) -> None:
    """Ends a locked open task, and tells who waits."""
    await connection.execute(
        """
        update aegis.training_task
        set ended = %s, reason = %s, steps_spent = %s, answer_sha256 = %s, answer_size_bytes = %s,
            closed_at = %s, seconds = greatest(0, extract(epoch from %s - created_at))
        where task_id = %s
        """,
        (*ending, at, at, task.task_id),
    )
    await tell(connection, f"run:{task.run_id}", f"participant:{task.participant}")


async def close_tasks(connection: Connection, run_id: str, round: int, at: datetime) -> int:  # noqa: A002
    """Cancels what is open of a round; returns how many tasks that were."""
    return await _close(
        connection,
        "t.run_id = %(run_id)s and t.round = %(round)s for update of t",
        run_id=run_id,
        round=round,
        at=at,
    )


async def close_overdue(connection: Connection, at: datetime) -> int:
    """Ends what nobody will answer or needs: overdue, over, or of a revoked participant.

    What somebody is just ending is left to him: servers that sweep do not wait for each other.
    """
    return await _close(
        connection,
        f"(t.deadline <= %(at)s or {_OVER}) for update of t skip locked",
        at=at,
    )


async def _close(connection: Connection, condition: str, **values: object) -> int:
    statement = f"""
        with due as (
            select t.task_id from aegis.training_task t join aegis.run r on r.run_id = t.run_id
            where t.ended = 0 and {condition}
        )
        update aegis.training_task t
        set ended = case when t.deadline <= %(at)s then {_MISSED} else {_CANCELLED} end,
            closed_at = %(at)s,
            steps_spent = case when t.received_at is null then 0 else t.steps end,
            seconds = greatest(0, extract(epoch from %(at)s - t.created_at))
        from due where t.task_id = due.task_id
        returning t.run_id, t.participant
    """  # noqa: S608  # nothing in it comes from outside
    cursor = await connection.execute(statement.encode(), values)
    closed = await cursor.fetchall()
    topics = {topic for run, name in closed for topic in (f"run:{run}", f"participant:{name}")}
    await tell(connection, *sorted(topics))
    return len(closed)


async def names_of_run(connection: Connection, run_id: str) -> set[str]:
    """Returns who takes part in a run."""
    cursor = await connection.execute(
        "select name from aegis.run_site where run_id = %s", (run_id,)
    )
    return {name for (name,) in await cursor.fetchall()}


async def tell(connection: Connection, *topics: str) -> None:
    """Tells who listens, once this transaction commits."""
    await connection.execute(
        "select pg_notify(%s, topic) from unnest(%s::text[]) topic", (CHANNEL, [*topics])
    )
