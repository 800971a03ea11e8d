"""SQL of service accounts and their API keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.rows import class_row

from aegis.serving.database import Connection


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """An account as it is stored; `number` tells it from one that had its name before."""

    name: str
    number: int
    description: str
    roles: list[str]
    disabled: bool
    created_at: datetime
    revision: int

    @property
    def subject(self) -> str:
        """The name policies and the audit log know."""
        return f"service:{self.name}"

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return f"{self.number}.{self.revision}"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored, but for the digest of its secret."""

    key_id: str
    service_account: str
    scopes: list[str]
    created_at: datetime
    ends_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None

    def counts(self, now: datetime) -> bool:
        """True until it is revoked or past its end."""
        return self.revoked_at is None and now < self.ends_at


class StandingAccount(NamedTuple):
    """What the directory has to know of an account."""

    subject: str
    roles: list[str]
    disabled: bool


@dataclass(frozen=True, slots=True)
class StandingKey:
    """What the directory has to know of a key."""

    key_id: str
    subject: str
    digest: bytes = field(repr=False)
    scopes: list[str]
    ends_at: datetime
    revoked: bool


async def read_standing_accounts(connection: Connection) -> list[StandingAccount]:
    """Returns every account."""
    async with connection.cursor(row_factory=class_row(StandingAccount)) as cursor:
        await cursor.execute(
            "select 'service:' || name as subject, roles, disabled from aegis.service_account"
        )
        return await cursor.fetchall()


async def read_standing_keys(connection: Connection, since: datetime) -> list[StandingKey]:
    """Returns the keys that count, and those that ended after a moment."""
    async with connection.cursor(row_factory=class_row(StandingKey)) as cursor:
        await cursor.execute(
            """
            select key_id, 'service:' || service_account as subject, digest, scopes, ends_at,
                   revoked_at is not null as revoked
            from aegis.api_key
            where ends_at > %(since)s and (revoked_at is null or revoked_at > %(since)s)
            """,
            {"since": since},
        )
        return await cursor.fetchall()


async def insert_account(
    connection: Connection, name: str, *, description: str, roles: list[str], now: datetime
) -> ServiceAccount | None:
    """Stores an account; None when there is one of this name."""
    return await _account(
        connection,
        """
        insert into aegis.service_account (name, description, roles, created_at)
        values (%(name)s, %(description)s, %(roles)s, %(now)s)
        on conflict (name) do nothing
        returning name, number, description, roles, disabled, created_at, revision
        """,
        {"name": name, "description": description, "roles": roles, "now": now},
    )


async def account(connection: Connection, name: str) -> ServiceAccount | None:
    """Returns an account."""
    return await _account(
        connection,
        """
        select name, number, description, roles, disabled, created_at, revision
        from aegis.service_account where name = %(name)s
        """,
        {"name": name},
    )


async def lock_account(connection: Connection, name: str) -> ServiceAccount | None:
    """Returns an account, which stays as it is until the transaction ends."""
    return await _account(
        connection,
        """
        select name, number, description, roles, disabled, created_at, revision
        from aegis.service_account where name = %(name)s for update
        """,
        {"name": name},
    )


async def page_of_accounts(
    connection: Connection, *, after: str, limit: int
) -> list[ServiceAccount]:
    """Returns accounts by name."""
    async with connection.cursor(row_factory=class_row(ServiceAccount)) as cursor:
        await cursor.execute(
            """
            select name, number, description, roles, disabled, created_at, revision
            from aegis.service_account
            where name collate "C" > %s order by name collate "C" limit %s
            """,
            (after, limit),
        )
        return await cursor.fetchall()


async def update_account(
    connection: Connection, name: str, *, roles: list[str], disabled: bool
) -> ServiceAccount:
    """Stores what may change of a locked account and counts its revision up."""
    stored = await _account(
        connection,
        """
        update aegis.service_account
        set roles = %(roles)s, disabled = %(disabled)s, revision = revision + 1
        where name = %(name)s
        returning name, number, description, roles, disabled, created_at, revision
        """,
        {"name": name, "roles": roles, "disabled": disabled},
    )
    if stored is None:
        raise RuntimeError("the account was not locked")
    return stored


async def delete_account(connection: Connection, name: str) -> None:
    """Removes an account with its keys."""
    await connection.execute("delete from aegis.service_account where name = %s", (name,))


async def insert_key(
    connection: Connection,
    key_id: str,
    digest: bytes,
    *,
    service_account: str,
    scopes: list[str],
    now: datetime,
    ends_at: datetime,
) -> ApiKey:
    """Stores a key."""
    stored = await _key(
        connection,
        """
        insert into aegis.api_key (key_id, service_account, digest, scopes, created_at, ends_at)
        values (%(key_id)s, %(service_account)s, %(digest)s, %(scopes)s, %(now)s, %(ends_at)s)
        returning key_id, service_account, scopes, created_at, ends_at, last_used_at, revoked_at
        """,
        {
            "key_id": key_id,
            "service_account": service_account,
            "digest": digest,
            "scopes": scopes,
            "now": now,
            "ends_at": ends_at,
        },
    )
    if stored is None:
        raise RuntimeError("an insert returns what it stored")
    return stored


async def lock_key(connection: Connection, key_id: str) -> ApiKey | None:
    """Returns a key, which stays as it is until the transaction ends."""
    return await _key(
        connection,
        """
        select key_id, service_account, scopes, created_at, ends_at, last_used_at, revoked_at
        from aegis.api_key where key_id = %(key_id)s for update
        """,
        {"key_id": key_id},
    )


async def keys_of(
    connection: Connection, service_account: str, *, now: datetime, limit: int
) -> list[ApiKey]:
    """Returns the keys of an account, newest first: the last `limit`, and all that count."""
    async with connection.cursor(row_factory=class_row(ApiKey)) as cursor:
        await cursor.execute(
            """
            with newest as (
                select number from aegis.api_key
                where service_account = %(service_account)s order by number desc limit %(limit)s
            )
            select key_id, service_account, scopes, created_at, ends_at, last_used_at, revoked_at
            from aegis.api_key
            where service_account = %(service_account)s
              and (number in (select number from newest)
                   or (revoked_at is null and ends_at > %(now)s))
            order by number desc
            """,
            {"service_account": service_account, "now": now, "limit": limit},
        )
        return await cursor.fetchall()


async def counting_keys(connection: Connection, service_account: str, now: datetime) -> int:
    """Returns how many keys of an account count."""
    cursor = await connection.execute(
        """
        select count(*) from aegis.api_key
        where service_account = %s and revoked_at is null and ends_at > %s
        """,
        (service_account, now),
    )
    row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0


async def end_key(
    connection: Connection, key_id: str, *, ends_at: datetime, revoked_at: datetime | None
) -> ApiKey:
    """Stores when a locked key ends."""
    stored = await _key(
        connection,
        """
        update aegis.api_key set ends_at = %(ends_at)s, revoked_at = %(revoked_at)s
        where key_id = %(key_id)s
        returning key_id, service_account, scopes, created_at, ends_at, last_used_at, revoked_at
        """,
        {"key_id": key_id, "ends_at": ends_at, "revoked_at": revoked_at},
    )
    if stored is None:
        raise RuntimeError("the key was not locked")
    return stored


async def note_uses(connection: Connection, uses: Mapping[str, datetime]) -> None:
    """Stores when keys were used last; passes over those that somebody is changing right now."""
    await connection.execute(
        """
        with seen as (
            select key_id, at from unnest(%s::text[], %s::timestamptz[]) as seen (key_id, at)
        ), free as (
            select key_id from aegis.api_key where key_id in (select key_id from seen)
            for update skip locked
        )
        update aegis.api_key set last_used_at = greatest(last_used_at, seen.at)
        from seen join free using (key_id) where api_key.key_id = seen.key_id
        """,
        (list(uses), list(uses.values())),
    )


async def _account(
    connection: Connection, query: str, values: dict[str, Any]
) -> ServiceAccount | None:
    async with connection.cursor(row_factory=class_row(ServiceAccount)) as cursor:
        await cursor.execute(query.encode(), values)
        return await cursor.fetchone()


async def _key(connection: Connection, query: str, values: dict[str, Any]) -> ApiKey | None:
    async with connection.cursor(row_factory=class_row(ApiKey)) as cursor:
        await cursor.execute(query.encode(), values)
        return await cursor.fetchone()
