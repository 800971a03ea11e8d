"""SQL of the execution room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aegis.serving.database import Connection


@dataclass(frozen=True, slots=True)
class StoredAction:
    """A row of aegis.action."""

    action_id: str
    request_id: UUID
    key_id: str
    nonce: bytes
    issuer: str
    spec: bytes
    action_digest: bytes
    request_envelope: bytes
    decision_envelope: bytes | None
    execute_not_after: datetime
    state: int
    reason: str
    message: str
    observations: Mapping[str, str]
    policy_revision: int
    rule_id: str
    created_at: datetime
    updated_at: datetime


_COLUMNS = (
    "action_id, request_id, key_id, nonce, issuer, spec, action_digest, request_envelope,"
    " decision_envelope, execute_not_after, state, reason, message, observations,"
    " policy_revision, rule_id, created_at, updated_at"
)


async def insert(connection: Connection, action: StoredAction) -> bool:
    """Stores a new action; False when its request_id or its nonce is already taken."""
    values = {name: getattr(action, name) for name in StoredAction.__slots__}
    values["observations"] = Jsonb(dict(action.observations))
    placeholders = ", ".join(f"%({name})s" for name in StoredAction.__slots__)
    cursor = await connection.execute(
        f"insert into aegis.action ({_COLUMNS}) values ({placeholders}) on conflict do nothing",  # noqa: S608
        values,
    )
    return cursor.rowcount == 1


async def find(
    connection: Connection,
    *,
    action_id: str = "",
    request_id: str | None = None,
    nonce: tuple[str, bytes] | None = None,
) -> StoredAction | None:
    """Returns the action with this id, or this request id, or this (key id, nonce)."""
    key_id, value = nonce or ("", b"")
    async with connection.cursor(row_factory=class_row(StoredAction)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.action
            where action_id = %s or request_id = %s::uuid or (key_id = %s and nonce = %s)
            """,  # noqa: S608
            (action_id, request_id, key_id, value),
        )
        return await cursor.fetchone()


async def settle(
    connection: Connection,
    action_id: str,
    *,
    state: int,
    reason: str,
    message: str,
    observations: Mapping[str, str],
    now: datetime,
) -> bool:
    """Writes how a DISPATCHED action ended; False when somebody else did before."""
    cursor = await connection.execute(
        """
        update aegis.action
        set state = %s, reason = %s, message = %s, observations = %s, updated_at = %s
        where action_id = %s and state = 2
        """,
        (state, reason, message, Jsonb(dict(observations)), now, action_id),
    )
    return cursor.rowcount == 1


async def waiting_since(
    connection: Connection, *, before: datetime, now: datetime, limit: int
) -> list[StoredAction]:
    """Takes DISPATCHED actions not touched since `before`.

    SKIP LOCKED and the new updated_at keep two servers from asking about the same action at once.
    """
    async with connection.cursor(row_factory=class_row(StoredAction)) as cursor:
        await cursor.execute(
            f"""
            update aegis.action set updated_at = %s where action_id in (
                select action_id from aegis.action where state = 2 and updated_at < %s
                order by updated_at limit %s for update skip locked)
            returning {_COLUMNS}
            """,  # noqa: S608
            (now, before, limit),
        )
        return await cursor.fetchall()


async def page(
    connection: Connection, *, after: tuple[datetime, str] | None, limit: int
) -> list[StoredAction]:
    """Returns actions, newest first, behind (created_at, action_id)."""
    created_at, action_id = after or (None, "")
    async with connection.cursor(row_factory=class_row(StoredAction)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.action
            where %(at)s::timestamptz is null or (created_at, action_id) < (%(at)s, %(id)s)
            order by created_at desc, action_id desc limit %(limit)s
            """,  # noqa: S608
            {"at": created_at, "id": action_id, "limit": limit},
        )
        return await cursor.fetchall()
