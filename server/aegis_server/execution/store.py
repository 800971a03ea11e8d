"""SQL of actions: what was asked for, where it stands, and the envelopes that were taken."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aegis.serving.database import Connection
from aegis_server.execution.states import ENDED, NOT_HEALED, S, State


@dataclass(frozen=True, slots=True)
class StoredAction:
    """A row of aegis.action. The envelopes are those of the request that was taken last."""

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
    state: State
    reason: str
    message: str
    observations: Mapping[str, str]
    policy_revision: int
    rule_id: str
    created_at: datetime
    updated_at: datetime
    steps: bytes = b""
    attributes: Mapping[str, str] | None = None
    incident_id: str = ""
    break_glass: bool = False
    dry_run: bool = False
    approval_expires_at: datetime | None = None
    execute_expires_at: datetime | None = None
    ended_at: datetime | None = None
    gates: bytes = b""
    verb: str = ""
    namespace: str = ""
    asked_at: datetime | None = None

    @property
    def has_ended(self) -> bool:
        """Says whether nothing more happens to it by itself."""
        return self.state in ENDED


_NAMES = tuple(StoredAction.__slots__)
_COLUMNS = ", ".join(_NAMES)
# Who asked for what, and when, never changes.
_FIXED = frozenset(
    {
        "action_id",
        "request_id",
        "issuer",
        "spec",
        "action_digest",
        "created_at",
        "incident_id",
        "break_glass",
        "dry_run",
        "verb",
        "namespace",
    }
)
_CHANGES = ", ".join(f"{name} = %({name})s" for name in _NAMES if name not in _FIXED)


def _values(action: StoredAction) -> dict[str, object]:
    values: dict[str, object] = {name: getattr(action, name) for name in _NAMES}
    values["observations"] = Jsonb(dict(action.observations))
    values["attributes"] = Jsonb(dict(action.attributes or {}))
    return values


async def insert(connection: Connection, action: StoredAction) -> bool:
    """Stores a new action; False when its request_id or its nonce is already taken."""
    placeholders = ", ".join(f"%({name})s" for name in _NAMES)
    cursor = await connection.execute(
        f"insert into aegis.action ({_COLUMNS}) values ({placeholders}) on conflict do nothing",  # noqa: S608
        _values(action),
    )
    return cursor.rowcount == 1


async def write(connection: Connection, action: StoredAction, *, was: State) -> bool:
    """Replaces what may change of an action; False when its state is no longer `was`."""
    cursor = await connection.execute(
        f"update aegis.action set {_CHANGES} where action_id = %(action_id)s and state = %(was)s",  # noqa: S608
        {**_values(action), "was": was},
    )
    return cursor.rowcount == 1


async def find(
    connection: Connection,
    *,
    action_id: str = "",
    request_id: str | None = None,
    lock: bool = False,
) -> StoredAction | None:
    """Returns the action with this id, or this request id; `lock` keeps others from moving it."""
    async with connection.cursor(row_factory=class_row(StoredAction)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.action
            where action_id = %s or request_id = %s::uuid {"for update" if lock else ""}
            """,  # noqa: S608
            (action_id, request_id),
        )
        return await cursor.fetchone()


async def spend(
    connection: Connection,
    action_id: str,
    *,
    key_id: str,
    nonce: bytes,
    envelope: bytes,
    at: datetime,
) -> bool:
    """Takes an envelope for an action; False when it was taken before, for whatever."""
    cursor = await connection.execute(
        """
        insert into aegis.action_envelope (key_id, nonce, action_id, envelope, at)
        values (%s, %s, %s, %s, %s) on conflict do nothing
        """,
        (key_id, nonce, action_id, envelope, at),
    )
    return cursor.rowcount == 1


async def spent_for(connection: Connection, key_id: str, nonce: bytes) -> str:
    """Returns the action an envelope was taken for, empty when it is fresh."""
    cursor = await connection.execute(
        "select action_id from aegis.action_envelope where key_id = %s and nonce = %s",
        (key_id, nonce),
    )
    row = await cursor.fetchone()
    return str(row[0]) if row is not None else ""


async def waiting_since(
    connection: Connection, *, before: datetime, born_after: datetime, now: datetime, limit: int
) -> list[StoredAction]:
    """Takes DISPATCHED and APPLIED actions the executor was not asked about since `before`.

    SKIP LOCKED and the new asked_at keep two servers from asking about the same action at once.
    """
    async with connection.cursor(row_factory=class_row(StoredAction)) as cursor:
        await cursor.execute(
            f"""
            update aegis.action set asked_at = %s where action_id in (
                select action_id from aegis.action
                where state in (2, 3) and asked_at < %s and (state = 2 or created_at > %s)
                order by asked_at limit %s for update skip locked)
            returning {_COLUMNS}
            """,  # noqa: S608
            (now, before, born_after, limit),
        )
        return await cursor.fetchall()


async def overdue(connection: Connection, *, now: datetime, limit: int) -> list[StoredAction]:
    """Locks actions whose time to be approved, or to be signed for again, is over."""
    async with connection.cursor(row_factory=class_row(StoredAction)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.action
            where state in (7, 10)
                and ((state = 7 and approval_expires_at < %(now)s)
                    or (state = 10 and execute_expires_at < %(now)s))
            order by created_at limit %(limit)s for update skip locked
            """,  # noqa: S608
            {"now": now, "limit": limit},
        )
        return await cursor.fetchall()


async def page(
    connection: Connection,
    *,
    after: tuple[datetime, str] | None,
    limit: int,
    states: Collection[int] = (),
    incident_id: str = "",
) -> list[StoredAction]:
    """Returns actions, newest first, behind (created_at, action_id)."""
    created_at, action_id = after or (None, "")
    async with connection.cursor(row_factory=class_row(StoredAction)) as cursor:
        await cursor.execute(
            f"""
            select {_COLUMNS} from aegis.action
            where (%(at)s::timestamptz is null or (created_at, action_id) < (%(at)s, %(id)s))
                and (%(states)s::int[] = '{{}}' or state = any(%(states)s))
                and (%(incident)s = '' or incident_id = %(incident)s)
            order by created_at desc, action_id desc limit %(limit)s
            """,  # noqa: S608
            {
                "at": created_at,
                "id": action_id,
                "limit": limit,
                "states": list(states),
                "incident": incident_id,
            },
        )
        return await cursor.fetchall()


async def unanswered_glass(
    connection: Connection, issuer: str, *, before: datetime, needed: int
) -> str:
    """Returns an action for which an issuer broke the glass before a time, and too few answered.

    Empty when there is none. What the policy denied broke nothing.
    """
    cursor = await connection.execute(
        """
        select action_id from aegis.action
        where break_glass and issuer = %s and created_at < %s and state <> %s
            and (select count(*) from aegis.action_approval as said
                 where said.action_id = action.action_id and said.kind = 'review') < %s
        order by created_at limit 1
        """,
        (issuer, before, S.STATE_DENIED, needed),
    )
    row = await cursor.fetchone()
    return str(row[0]) if row is not None else ""


async def not_healed_around(
    connection: Connection, *, namespace: str, verb: str, since: datetime, until: datetime
) -> set[str]:
    """Returns who asked for actions of a scope that were of no use.

    Those are the last one that was known by `until`, not before `since`, and all that were known
    later. An empty namespace or verb is every one.
    """
    cursor = await connection.execute(
        """
        with useless as (
            select issuer, updated_at from aegis.action
            where state = any(%(states)s) and updated_at > %(since)s
                and (%(namespace)s = '' or namespace = %(namespace)s)
                and (%(verb)s = '' or verb = %(verb)s))
        select issuer from useless where updated_at >= coalesce(
            (select max(updated_at) from useless where updated_at <= %(until)s), %(since)s)
        """,
        {
            "states": list(NOT_HEALED),
            "since": since,
            "until": until,
            "namespace": namespace,
            "verb": verb,
        },
    )
    return {str(row[0]) for row in await cursor.fetchall()}


async def count_refusal(connection: Connection, *, reason: str, at: datetime) -> None:
    """Counts a refusal that left no action."""
    await connection.execute(
        "insert into aegis.action_refusal (at, reason) values (%s, %s)", (at, reason)
    )
