"""SQL of people: their accounts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.rows import class_row

from aegis.serving.database import Connection

_USER_ID = re.compile("u-[a-z2-7]{10}")


@dataclass(frozen=True, slots=True)
class Person:
    """An account as it is stored; who sees a repr of it sees nothing personal."""

    user_id: str
    number: int
    email: str = field(repr=False)
    display_name: str = field(repr=False)
    roles: list[str]
    disabled: bool
    password_hash: str | None = field(repr=False)
    created_at: datetime
    last_login_at: datetime | None
    revision: int

    @property
    def subject(self) -> str:
        """The name policies and the audit log know."""
        return f"user:{self.user_id}"

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return f"{self.user_id}.{self.revision}"

    @property
    def can_administrate(self) -> bool:
        """True for who can log in and hold the role admin."""
        return "admin" in self.roles and not self.disabled and self.password_hash is not None


class Standing(NamedTuple):
    """What the directory has to know of a person."""

    subject: str
    roles: list[str]
    disabled: bool


def key_of(email: str) -> str:
    """Returns the one spelling of an address that accounts are told apart by.

    Anything may be typed where one logs in; PostgreSQL takes no NUL in a text.
    """
    return email.strip().lower().replace("\0", "")


async def read_standing(connection: Connection) -> list[Standing]:
    """Returns everybody."""
    cursor = await connection.execute(
        "select 'user:' || user_id, roles, disabled from aegis.person"
    )
    return [Standing(*row) for row in await cursor.fetchall()]


async def insert(connection: Connection, person: Person) -> Person | None:
    """Stores a new account and returns it with its number; None when the address is taken."""
    return await _one(
        connection,
        """
        insert into aegis.person (user_id, email, email_key, display_name, roles, disabled,
                                  password_hash, created_at, last_login_at)
        values (%(user_id)s, %(email)s, %(email_key)s, %(display_name)s, %(roles)s, %(disabled)s,
                %(password_hash)s, %(created_at)s, %(last_login_at)s)
        on conflict (email_key) do nothing
        returning user_id, number, email, display_name, roles, disabled, password_hash, created_at,
                  last_login_at, revision
        """,
        _values(person),
    )


async def by_id(connection: Connection, user_id: str) -> Person | None:
    """Returns an account."""
    if _USER_ID.fullmatch(user_id) is None:
        return None
    return await _one(
        connection,
        """
        select user_id, number, email, display_name, roles, disabled, password_hash, created_at,
               last_login_at, revision
        from aegis.person where user_id = %(user_id)s
        """,
        {"user_id": user_id},
    )


async def lock(connection: Connection, user_id: str) -> Person | None:
    """As `by_id`, and nobody else changes the account until the transaction ends."""
    if _USER_ID.fullmatch(user_id) is None:
        return None
    return await _one(
        connection,
        """
        select user_id, number, email, display_name, roles, disabled, password_hash, created_at,
               last_login_at, revision
        from aegis.person where user_id = %(user_id)s for update
        """,
        {"user_id": user_id},
    )


async def by_email(connection: Connection, email: str) -> Person | None:
    """Returns the account of an address."""
    return await _one(
        connection,
        """
        select user_id, number, email, display_name, roles, disabled, password_hash, created_at,
               last_login_at, revision
        from aegis.person where email_key = %(email_key)s
        """,
        {"email_key": key_of(email)},
    )


async def lock_by_email(connection: Connection, email: str) -> Person | None:
    """As `by_email`, and nobody else changes the account until the transaction ends.

    Waits for who changes it now, and returns nothing when it has another address then.
    """
    return await _one(
        connection,
        """
        select user_id, number, email, display_name, roles, disabled, password_hash, created_at,
               last_login_at, revision
        from aegis.person where email_key = %(email_key)s for update
        """,
        {"email_key": key_of(email)},
    )


async def page(connection: Connection, *, after: int, limit: int) -> list[Person]:
    """Returns accounts in the order in which they were made."""
    async with connection.cursor(row_factory=class_row(Person)) as cursor:
        await cursor.execute(
            """
            select user_id, number, email, display_name, roles, disabled, password_hash,
                   created_at, last_login_at, revision
            from aegis.person where number > %s order by number limit %s
            """,
            (after, limit),
        )
        return await cursor.fetchall()


async def address_is_free(connection: Connection, email: str, *, but_for: str) -> bool:
    """Says whether nobody but `but_for` has the address."""
    cursor = await connection.execute(
        "select 1 from aegis.person where email_key = %s and user_id <> %s",
        (key_of(email), but_for),
    )
    return await cursor.fetchone() is None


async def update(connection: Connection, person: Person) -> Person:
    """Stores what may change of a locked account and counts its revision up."""
    stored = await _one(
        connection,
        """
        update aegis.person
        set email = %(email)s, email_key = %(email_key)s, display_name = %(display_name)s,
            roles = %(roles)s, disabled = %(disabled)s, password_hash = %(password_hash)s,
            revision = revision + 1
        where user_id = %(user_id)s
        returning user_id, number, email, display_name, roles, disabled, password_hash, created_at,
                  last_login_at, revision
        """,
        _values(person),
    )
    if stored is None:
        raise RuntimeError("the account was not locked")
    return stored


async def note_login(
    connection: Connection, user_id: str, *, at: datetime, password_hash: str
) -> None:
    """Stores when somebody logged in, and the hash, which may have newer parameters now."""
    await connection.execute(
        "update aegis.person set last_login_at = %s, password_hash = %s where user_id = %s",
        (at, password_hash, user_id),
    )


async def delete(connection: Connection, user_id: str) -> None:
    """Removes an account with its sessions and tokens."""
    await connection.execute("delete from aegis.person where user_id = %s", (user_id,))


async def administrators(connection: Connection, *, but_for: str = "") -> int:
    """Returns how many people can log in and administrate."""
    cursor = await connection.execute(
        """
        select count(*) from aegis.person
        where 'admin' = any(roles) and not disabled and password_hash is not null
          and user_id <> %s
        """,
        (but_for,),
    )
    row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0


def _values(person: Person) -> dict[str, Any]:
    return {
        "user_id": person.user_id,
        "email": person.email,
        "email_key": key_of(person.email),
        "display_name": person.display_name,
        "roles": person.roles,
        "disabled": person.disabled,
        "password_hash": person.password_hash,
        "created_at": person.created_at,
        "last_login_at": person.last_login_at,
    }


async def _one(connection: Connection, query: str, values: dict[str, Any]) -> Person | None:
    async with connection.cursor(row_factory=class_row(Person)) as cursor:
        await cursor.execute(query.encode(), values)
        return await cursor.fetchone()
