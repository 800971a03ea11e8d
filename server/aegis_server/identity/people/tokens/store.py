"""SQL of tokens: sessions with their refresh tokens, and tokens for a single use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from psycopg.rows import class_row

from aegis.serving.database import Connection

Purpose: TypeAlias = Literal["bootstrap", "invitation", "reset"]


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token with the session it belongs to and the person that session is of."""

    session_id: str
    user_id: str
    ends_at: datetime
    spent_at: datetime | None
    revoked_at: datetime | None
    disabled: bool


async def begin_session(
    connection: Connection, session_id: str, user_id: str, *, now: datetime, ends_at: datetime
) -> None:
    """Stores a session, which has no token yet."""
    await connection.execute(
        """
        insert into aegis.session (session_id, user_id, created_at, ends_at)
        values (%s, %s, %s, %s)
        """,
        (session_id, user_id, now, ends_at),
    )


async def keep_refresh_token(
    connection: Connection, digest: bytes, session_id: str, ends_at: datetime
) -> None:
    """Stores the newest token of a session, which lasts as long as it."""
    await connection.execute(
        "insert into aegis.refresh_token (digest, session_id, ends_at) values (%s, %s, %s)",
        (digest, session_id, ends_at),
    )
    await connection.execute(
        "update aegis.session set ends_at = %s where session_id = %s", (ends_at, session_id)
    )


async def lock_refresh_token(connection: Connection, digest: bytes) -> RefreshToken | None:
    """Returns a token; it and its session stay as they are until the transaction ends."""
    async with connection.cursor(row_factory=class_row(RefreshToken)) as cursor:
        await cursor.execute(
            """
            select session_id, user_id, token.ends_at, spent_at, revoked_at, disabled
            from aegis.refresh_token token
                join aegis.session session using (session_id)
                join aegis.person using (user_id)
            where digest = %s for update of token, session
            """,
            (digest,),
        )
        return await cursor.fetchone()


async def spend_refresh_token(connection: Connection, digest: bytes, now: datetime) -> None:
    """Marks a token as used."""
    await connection.execute(
        "update aegis.refresh_token set spent_at = %s where digest = %s", (now, digest)
    )


async def revoke_session(connection: Connection, session_id: str, now: datetime) -> bool:
    """Ends a session; False when it had ended before."""
    cursor = await connection.execute(
        """
        update aegis.session set revoked_at = %s where session_id = %s and revoked_at is null
        returning 1
        """,
        (now, session_id),
    )
    return await cursor.fetchone() is not None


async def revoke_sessions(
    connection: Connection, user_id: str, now: datetime, *, but_for: str = ""
) -> int:
    """Ends every session of a person; returns how many there were."""
    cursor = await connection.execute(
        """
        update aegis.session set revoked_at = %s
        where user_id = %s and revoked_at is null and session_id <> %s
        """,
        (now, user_id, but_for),
    )
    return cursor.rowcount


async def revoked_since(connection: Connection, moment: datetime) -> list[str]:
    """Returns the sessions that were ended after a moment."""
    cursor = await connection.execute(
        "select session_id from aegis.session where revoked_at > %s", (moment,)
    )
    return [row[0] for row in await cursor.fetchall()]


async def drop_ended(connection: Connection, moment: datetime) -> None:
    """Removes what could no longer be used at a moment."""
    await connection.execute("delete from aegis.session where ends_at <= %s", (moment,))
    await connection.execute("delete from aegis.one_time_token where ends_at <= %s", (moment,))


async def keep_token(
    connection: Connection,
    digest: bytes,
    purpose: Purpose,
    *,
    user_id: str | None,
    now: datetime,
    ends_at: datetime | None,
) -> None:
    """Stores a single-use token."""
    await connection.execute(
        """
        insert into aegis.one_time_token (digest, purpose, user_id, created_at, ends_at)
        values (%s, %s, %s, %s, %s)
        """,
        (digest, purpose, user_id, now, ends_at),
    )


async def token_owner(
    connection: Connection, digest: bytes, purposes: Sequence[Purpose], now: datetime
) -> tuple[Purpose, str | None] | None:
    """Returns what a token that still counts is for, and whose it is."""
    cursor = await connection.execute(
        """
        select purpose, user_id from aegis.one_time_token
        where digest = %s and purpose = any(%s) and (ends_at is null or ends_at > %s)
        """,
        (digest, list(purposes), now),
    )
    row = await cursor.fetchone()
    return (row[0], row[1]) if row is not None else None


async def spend_token(connection: Connection, digest: bytes) -> bool:
    """Removes a token; False when somebody else did."""
    cursor = await connection.execute(
        "delete from aegis.one_time_token where digest = %s returning 1", (digest,)
    )
    return await cursor.fetchone() is not None


async def drop_tokens_of(connection: Connection, user_id: str) -> None:
    """Removes every token of a person."""
    await connection.execute("delete from aegis.one_time_token where user_id = %s", (user_id,))


async def drop_bootstrap_tokens(connection: Connection) -> None:
    """Removes what makes the first administrator."""
    await connection.execute("delete from aegis.one_time_token where purpose = 'bootstrap'")
