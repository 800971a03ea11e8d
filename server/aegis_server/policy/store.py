"""SQL of the policy's revisions: the lines, the chain of digests, and the head that writers lock.

A line lives from the revision that made it until the one that removed it, so every revision can be
read back, and what lies between two of them is a query.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from aegis.serving.database import Connection
from aegis_policy import Line, to_csv
from aegis_server.policy.places import Placed, Step, identity_of

# Whoever listens on it is told the number of each new revision.
CHANNEL = "aegis_policy"
# So many lines a statement: each has to end within Postgres' statement timeout.
_ROWS_MAX = 10_000


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
    # Casbin's model.conf; empty for Aegis' own.
    model_conf: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """A revision with its lines in their places."""

    revision: Revision
    placed: tuple[Placed, ...]

    @property
    def lines(self) -> list[Line]:
        """The lines in their order."""
        return [placed.line for placed in self.placed]


class StoredPolicyBroken(Exception):
    """What is stored is not what was imported; it is not used."""


def chained_digest(prev_digest: bytes, lines: Iterable[Line], model_conf: str = "") -> bytes:
    """Returns SHA-256 over the digest before and the SHA-256 of the canonical rule file.

    A model of its own follows the file behind a NUL, which no rule file has.
    """
    text = to_csv(lines)
    if model_conf:
        text += "\0" + model_conf
    return hashlib.sha256(prev_digest + hashlib.sha256(text.encode()).digest()).digest()


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
    """As `read_placed`, without the places."""
    policy = await read_placed(connection, number)
    return None if policy is None else (policy.revision, policy.lines)


async def read_placed(connection: Connection, number: int) -> Policy | None:
    """Returns a revision and its lines in order, or None if it never was.

    Raises `StoredPolicyBroken` unless the lines still have the digest they were stored with.
    """
    revision = await read_revision(connection, number)
    if revision is None:
        return None
    cursor = await connection.execute(
        """
        select position, kind, fields from aegis.policy_rule
        where created_rev <= %(number)s and (deleted_rev is null or deleted_rev > %(number)s)
        order by position
        """,
        {"number": number},
    )
    # A hundred thousand lines take a good part of a second; others have their turn meanwhile.
    return await asyncio.to_thread(_checked, revision, await cursor.fetchall())


def _checked(revision: Revision, rows: Sequence[tuple[Any, ...]]) -> Policy:
    placed = tuple(_placed(row) for row in rows)
    lines = (line for _, line in placed)
    if chained_digest(revision.prev_digest, lines, revision.model_conf) != revision.digest:
        raise StoredPolicyBroken(
            f"the stored lines of revision {revision.number} are not those imported"
        )
    return Policy(revision, placed)


def _placed(row: tuple[Any, ...]) -> Placed:
    position, kind, fields = row
    return Placed(position, Line(kind, tuple(fields)))


async def read_revision(connection: Connection, number: int) -> Revision | None:
    """Returns a revision without its lines, or None if it never was."""
    found = await revisions(connection, before=number + 1, limit=1)
    return found[0] if found and found[0].number == number else None


async def revisions(
    connection: Connection, *, before: int | None = None, limit: int
) -> list[Revision]:
    """Returns revisions numbered below `before`, the newest first."""
    cursor = await connection.execute(
        """
        select revision, prev_digest, digest, actor, reason, rule_count, at, model_conf
        from aegis.policy_revision
        where %(before)s::bigint is null or revision < %(before)s
        order by revision desc limit %(limit)s
        """,
        {"before": before, "limit": limit},
    )
    return [
        Revision(number, bytes(prev_digest), bytes(digest), *rest)
        for number, prev_digest, digest, *rest in await cursor.fetchall()
    ]


async def delta(connection: Connection, from_revision: int, to_revision: int) -> Step:
    """Returns the step from an older revision to a newer one.

    It is not checked: whoever takes it compares the digest of what it leads to.
    """
    asked = {"from": from_revision, "to": to_revision}
    cursor = await connection.execute(
        """
        select position from aegis.policy_rule
        where created_rev <= %(from)s and deleted_rev > %(from)s and deleted_rev <= %(to)s
        order by position
        """,
        asked,
    )
    removed = [row[0] for row in await cursor.fetchall()]
    cursor = await connection.execute(
        """
        select position, kind, fields from aegis.policy_rule
        where created_rev > %(from)s and created_rev <= %(to)s
            and (deleted_rev is null or deleted_rev > %(to)s)
        order by position
        """,
        asked,
    )
    return Step(removed, [_placed(row) for row in await cursor.fetchall()])


async def known_identities(
    connection: Connection, lines: Sequence[Line]
) -> frozenset[tuple[str, ...]]:
    """Returns the identities of those of the lines that some revision ever had, however changed."""
    cursor = await connection.execute(
        """
        select distinct kind, fields from aegis.policy_rule
        where (kind = 'p' and fields[array_length(fields, 1)] = any(%(ids)s))
            or (kind <> 'p' and fields[1] = any(%(members)s))
        """,
        {
            "ids": [line.fields[-1] for line in lines if line.kind == "p"],
            "members": [line.fields[0] for line in lines if line.kind != "p"],
        },
    )
    return frozenset(identity_of(Line(kind, tuple(f))) for kind, f in await cursor.fetchall())


async def append(connection: Connection, revision: Revision, step: Step) -> None:
    """Stores a revision, makes it the head, and tells who listens once this commits.

    `step` leads here from the revision before; only what it names is written.
    """
    await connection.execute(
        """
        insert into aegis.policy_revision
            (revision, prev_digest, digest, actor, reason, rule_count, at, model_conf)
        values (%s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            revision.number,
            revision.prev_digest,
            revision.digest,
            revision.actor,
            revision.reason,
            revision.rule_count,
            revision.at,
            revision.model_conf,
        ),
    )
    for start in range(0, len(step.removed), _ROWS_MAX):
        await connection.execute(
            """
            update aegis.policy_rule set deleted_rev = %s
            where deleted_rev is null and position = any(%s)
            """,
            (revision.number, step.removed[start : start + _ROWS_MAX]),
        )
    for start in range(0, len(step.added), _ROWS_MAX):
        await _copy(connection, revision.number, step.added[start : start + _ROWS_MAX])
    await connection.execute(
        "update aegis.policy_head set revision = %s, digest = %s",
        (revision.number, revision.digest),
    )
    await connection.execute("select pg_notify(%s, %s)", (CHANNEL, str(revision.number)))


async def _copy(connection: Connection, number: int, added: Sequence[Placed]) -> None:
    async with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy aegis.policy_rule (created_rev, position, kind, fields) from stdin"
        ) as copy,
    ):
        for place, line in added:
            await copy.write_row((number, place, line.kind, list(line.fields)))
