"""SQL of detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aegis.serving.database import Connection

_TRAINING_LOCK = 0x64657465  # "dete"


@dataclass(frozen=True, slots=True)
class StoredDetector:
    """A row of aegis.review_detector; `measured` has a JSON object for each attack."""

    seq: int
    version: str
    state: str
    request_id: str | None
    dataset: str
    target_fpr: float
    seed: int
    sha256: bytes | None
    reason: str
    updates: int
    rounds: int
    participants: int
    measured: Sequence[Mapping[str, object]]
    progress: float
    attempts: int
    created_by: str
    created_at: datetime
    promoted_by: str
    promoted_at: datetime | None
    former: str | None


@dataclass(frozen=True, slots=True)
class Scored:
    """An update the champion decided about, with what stands now."""

    participant: str
    rejected: bool
    overridden: bool


@dataclass(frozen=True, slots=True)
class Both:
    """How two detectors differ on what both have scored."""

    scored: int
    only_first_rejects: int
    only_second_rejects: int


_COLUMNS = ", ".join(StoredDetector.__slots__)


async def insert(
    connection: Connection,
    *,
    request_id: str,
    dataset: str,
    target_fpr: float,
    seed: int,
    by: str,
    at: datetime,
) -> str | None:
    """Stores a job and returns its version; None when the request is stored already."""
    cursor = await connection.execute(
        """
        insert into aegis.review_detector
            (state, request_id, dataset, target_fpr, seed, created_by, created_at)
        values ('training', %s, %s, %s, %s, %s, %s)
        on conflict (request_id) do nothing returning version
        """,
        (request_id, dataset, target_fpr, seed, by, at),
    )
    row = await cursor.fetchone()
    return str(row[0]) if row else None


async def lock_places(connection: Connection) -> None:
    """Keeps others from moving any detector into or out of its place until the transaction ends."""
    # The row that is always there stands for all of them.
    await connection.execute(
        "select from aegis.review_detector where version = 'builtin' for update"
    )


async def find(connection: Connection, version: str) -> StoredDetector | None:
    """Returns a version."""
    return await _one(connection, "version = %s", (version,))


async def of_request(connection: Connection, request_id: str) -> StoredDetector | None:
    """Returns the job a request started."""
    return await _one(connection, "request_id = %s", (request_id,))


async def in_state(connection: Connection, state: str) -> StoredDetector | None:
    """Returns the one in a state of which there is one at most: champion or shadow."""
    return await _one(connection, "state = %s", (state,))


async def page(connection: Connection, *, before: int | None, limit: int) -> list[StoredDetector]:
    """Returns detectors, newest first, below position `before`."""
    async with connection.cursor(row_factory=class_row(StoredDetector)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.review_detector
            where %(before)s::bigint is null or seq < %(before)s
            order by seq desc limit %(limit)s
            """,  # noqa: S608
            {"before": before, "limit": limit},
        )
        return await cursor.fetchall()


async def claim_training(connection: Connection) -> bool:
    """Says whether this transaction is the one that trains, until it ends; others are told no."""
    cursor = await connection.execute("select pg_try_advisory_xact_lock(%s)", (_TRAINING_LOCK,))
    return await cursor.fetchone() == (True,)


async def still_claimed(connection: Connection) -> None:
    """Raises when the claim's connection is broken."""
    await connection.execute("select 1")


async def begin_attempt(connection: Connection) -> StoredDetector | None:
    """Returns the oldest job with one more attempt counted, if there is a job."""
    cursor = await connection.execute(
        """
        update aegis.review_detector set attempts = attempts + 1, progress = 0
        where seq = (select min(seq) from aegis.review_detector where state = 'training')
        returning version
        """
    )
    row = await cursor.fetchone()
    return await find(connection, str(row[0])) if row else None


async def give_attempt_back(connection: Connection, version: str) -> None:
    """Counts an attempt less: what went wrong was not the job's fault."""
    await connection.execute(
        "update aegis.review_detector set attempts = attempts - 1 where version = %s", (version,)
    )


async def set_progress(connection: Connection, version: str, progress: float) -> None:
    """Says how much of a job is done, 0 to 1."""
    await connection.execute(
        "update aegis.review_detector set progress = %s where version = %s and state = 'training'",
        (progress, version),
    )


async def finish_training(
    connection: Connection,
    version: str,
    *,
    sha256: bytes,
    counts: tuple[int, int, int],
    measured: Sequence[Mapping[str, object]],
) -> bool:
    """Stores what came of a job; False when it is not in training any more.

    `counts` are the updates, rounds and participants it learnt from.
    """
    cursor = await connection.execute(
        """
        update aegis.review_detector
        set state = 'trained', sha256 = %s, updates = %s, rounds = %s, participants = %s,
            measured = %s, progress = 1
        where version = %s and state = 'training'
        """,
        (sha256, *counts, Jsonb(list(measured)), version),
    )
    return cursor.rowcount == 1


async def fail_training(connection: Connection, version: str, reason: str) -> bool:
    """Ends a job without a detector; False when it is not in training any more."""
    cursor = await connection.execute(
        """
        update aegis.review_detector set state = 'failed', reason = %s
        where version = %s and state = 'training'
        """,
        (reason, version),
    )
    return cursor.rowcount == 1


async def set_state(connection: Connection, version: str, state: str, *, reason: str = "") -> None:
    """Moves a detector to a state; the caller holds the lock on its row."""
    await connection.execute(
        "update aegis.review_detector set state = %s, reason = %s where version = %s",
        (state, reason, version),
    )


async def crown(
    connection: Connection, version: str, *, former: str | None, by: str, at: datetime
) -> None:
    """Makes a detector the champion; the caller has moved the one before out of its place."""
    await connection.execute(
        """
        update aegis.review_detector
        set state = 'champion', former = %s, promoted_by = %s, promoted_at = %s
        where version = %s
        """,
        (former, by, at, version),
    )


async def insert_scores(
    connection: Connection, rows: Sequence[tuple[str, str, float, bool]], at: datetime
) -> None:
    """Stores scores: update, detector, score, and whether it decided."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """
            insert into aegis.review_score (update_id, detector, score, decided, scored_at)
            values (%s, %s, %s, %s, %s) on conflict (update_id, detector) do nothing
            """,
            [(*row, at) for row in rows],
        )


async def decided(connection: Connection, detector: StoredDetector, *, limit: int) -> list[Scored]:
    """Returns the last updates a detector decided about since it is the champion, newest first."""
    async with connection.cursor(row_factory=class_row(Scored)) as cursor:
        await cursor.execute(
            """
            select u.participant, s.score >= 1 as rejected,
                   s.score >= 1 and u.verdict = 'accepted' as overridden
            from aegis.review_score s join aegis.review_update u using (update_id)
            where s.detector = %s and s.decided
              and s.scored_at >= coalesce(%s, '-infinity'::timestamptz)
            order by s.scored_at desc limit %s
            """,
            (detector.version, detector.promoted_at, limit),
        )
        return await cursor.fetchall()


async def datasets(connection: Connection) -> list[str]:
    """Returns the data sets whose updates are remembered."""
    cursor = await connection.execute("select distinct dataset from aegis.review_memory order by 1")
    return [str(name) for (name,) in await cursor.fetchall()]


async def suspects(connection: Connection) -> set[str]:
    """Returns who is, or is to be, in quarantine."""
    cursor = await connection.execute(
        "select participant from aegis.review_quarantine where state in ('proposed', 'in_force')"
    )
    return {str(name) for (name,) in await cursor.fetchall()}


async def counted(connection: Connection, versions: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Returns how many updates each decided about since it was promoted, and how many it counted
    out; a detector that decided about none is not there.
    """
    cursor = await connection.execute(
        """
        select d.version, count(*), count(*) filter (where s.score >= 1)
        from aegis.review_detector d join aegis.review_score s on s.detector = d.version
        where d.version = any(%s) and s.decided
          and s.scored_at >= coalesce(d.promoted_at, '-infinity'::timestamptz)
        group by d.version
        """,
        (list(versions),),
    )
    return {name: (scored, rejected) for name, scored, rejected in await cursor.fetchall()}


async def both(connection: Connection, one: str, other: str) -> Both:
    """Returns how two detectors differ on the updates both have scored."""
    async with connection.cursor(row_factory=class_row(Both)) as cursor:
        await cursor.execute(
            """
            select count(*) as scored,
                   count(*) filter (where a.score >= 1 and b.score < 1) as only_first_rejects,
                   count(*) filter (where b.score >= 1 and a.score < 1) as only_second_rejects
            from aegis.review_score a join aegis.review_score b using (update_id)
            where a.detector = %s and b.detector = %s
            """,
            (one, other),
        )
        return await cursor.fetchone() or Both(0, 0, 0)


async def _one(
    connection: Connection, condition: str, values: tuple[object, ...]
) -> StoredDetector | None:
    async with connection.cursor(row_factory=class_row(StoredDetector)) as cursor:
        await cursor.execute(
            f"select {_COLUMNS} from aegis.review_detector where {condition}",  # noqa: S608
            values,
        )
        return await cursor.fetchone()
