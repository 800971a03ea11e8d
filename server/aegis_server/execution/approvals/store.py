"""SQL of what people said about actions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from psycopg.rows import class_row

from aegis.serving.database import Connection

Kind: TypeAlias = Literal["approval", "rejection", "review"]


@dataclass(frozen=True, slots=True)
class Word:
    """What one person said: a row of aegis.action_approval."""

    action_id: str
    approver: str
    kind: Kind
    step: int
    group_name: str
    reason: str
    detached: bool
    envelope: bytes | None
    at: datetime


_COLUMNS = ", ".join(Word.__slots__)


def _values(word: Word) -> tuple[object, ...]:
    return tuple(getattr(word, name) for name in Word.__slots__)


async def insert(connection: Connection, word: Word) -> bool:
    """Stores a word; False when this person has said one of this kind already."""
    cursor = await connection.execute(
        f"""
        insert into aegis.action_approval ({_COLUMNS})
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing
        """,  # noqa: S608
        _values(word),
    )
    return cursor.rowcount == 1


async def replace(connection: Connection, word: Word) -> None:
    """Stores a word in place of the one of its kind that this person said before, if any."""
    await connection.execute(
        f"""
        insert into aegis.action_approval ({_COLUMNS})
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (action_id, kind, approver) do update set
            step = excluded.step, group_name = excluded.group_name, reason = excluded.reason,
            detached = excluded.detached, envelope = excluded.envelope, at = excluded.at
        """,  # noqa: S608
        _values(word),
    )


async def words_about(connection: Connection, action_ids: Collection[str]) -> dict[str, list[Word]]:
    """Returns what was said about each of several actions, the oldest first."""
    found: dict[str, list[Word]] = {action_id: [] for action_id in action_ids}
    async with connection.cursor(row_factory=class_row(Word)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.action_approval
            where action_id = any(%s) order by at, approver
            """,  # noqa: S608
            (list(action_ids),),
        )
        for word in await cursor.fetchall():
            found[word.action_id].append(word)
    return found
