"""SQL of the policy room."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from aegis.serving.database import Connection
from aegis_policy import Line, to_csv


class Head(NamedTuple):
    """The newest revision; number 0 before the first import."""

    revision: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of the rules: who made it, why, and its place in the chain."""

    number: int
    prev_digest: bytes
    digest: bytes
    actor: str
    reason: str
    rule_count: int
    at: datetime | None


class StoredPolicyBroken(Exception):
    """What is stored is not what was imported; it is not used."""


def chained_digest(prev_digest: bytes, lines: Sequence[Line]) -> bytes:
    """Returns SHA-256 over the digest before and the SHA-256 of the canonical rule file."""
    return hashlib.sha256(prev_digest + hashlib.sha256(to_csv(lines).encode()).digest()).digest()


async def head(connection: Connection) -> Head:
    """Returns the newest revision."""
    cursor = await connection.execute("select revision, digest from aegis.policy_head")
    row = await cursor.fetchone()
    if row is None:
        raise StoredPolicyBroken("the head row is gone")
    return Head(row[0], bytes(row[1]))


async def lock_head(connection: Connection) -> Head:
    """As `head`, and no other import proceeds until this transaction ends.

    Numbers taken under the lock commit in their order, which a sequence would not promise.
    """
    await connection.execute("select from aegis.policy_head for update")
    return await head(connection)


async def read_back(connection: Connection, number: int) -> tuple[Revision, list[Line]] | None:
    """Returns a revision and its lines in order, or None if it never was.

    Raises `StoredPolicyBroken` unless the lines still have the digest they were stored with.
    """
    cursor = await connection.execute(
        """
        select revision, prev_digest, digest, actor, reason, rule_count, at
        from aegis.policy_revision where revision = %s
        """,
        (number,),
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    revision = Revision(row[0], bytes(row[1]), bytes(row[2]), *row[3:])
    cursor = await connection.execute(
        """
        select kind, fields from aegis.policy_rule
        where created_rev <= %(number)s and (deleted_rev is null or deleted_rev > %(number)s)
        order by position
        """,
        {"number": number},
    )
    lines = [Line(kind, tuple(fields)) for kind, fields in await cursor.fetchall()]
    if chained_digest(revision.prev_digest, lines) != revision.digest:
        raise StoredPolicyBroken(f"the stored lines of revision {number} are not those imported")
    return revision, lines


async def append(
    connection: Connection, revision: Revision, *, before: Sequence[Line], after: Sequence[Line]
) -> None:
    """Stores a revision and makes it the head; `before` are the lines of the one it follows.

    Only lines that differ from the one at their place are written.
    """
    await connection.execute(
        """
        insert into aegis.policy_revision
            (revision, prev_digest, digest, actor, reason, rule_count, at)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (
            revision.number,
            revision.prev_digest,
            revision.digest,
            revision.actor,
            revision.reason,
            revision.rule_count,
            revision.at,
        ),
    )
    old, new = dict(enumerate(before)), dict(enumerate(after))
    gone = [position for position, line in old.items() if new.get(position) != line]
    await connection.execute(
        """
        update aegis.policy_rule set deleted_rev = %s
        where deleted_rev is null and position = any(%s)
        """,
        (revision.number, gone),
    )
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "insert into aegis.policy_rule (created_rev, position, kind, fields)"
            " values (%s, %s, %s, %s)",
            [
                (revision.number, position, line.kind, list(line.fields))
                for position, line in new.items()
                if old.get(position) != line
            ],
        )
    await connection.execute(
        "update aegis.policy_head set revision = %s, digest = %s",
        (revision.number, revision.digest),
    )
