"""SQL of participants and their certificates."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.rows import class_row

from aegis.serving.database import Connection

CHANNEL = "aegis_participants"

INVITED, ENROLLED, REVOKED = 1, 2, 3


@dataclass(frozen=True, slots=True)
class StoredParticipant:
    """A participant as it is stored; `stream_seen_at` and the offset are its open stream's."""

    name: str
    node_id: int
    state: int
    invited_by: str
    invited_at: datetime
    secret_sha256: bytes = field(repr=False)
    invitation_ends_at: datetime
    redeemed_key_sha256: bytes | None
    enrolled_at: datetime | None
    revoked_at: datetime | None
    reason: str
    software: str
    certificate_ends_at: datetime | None = None
    stream_seen_at: datetime | None = None
    clock_offset_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A certificate as it was given to a participant."""

    certificate_id: str
    participant: str
    certificate_pem: bytes
    key_sha256: bytes
    issued_at: datetime
    ends_at: datetime


class StandingParticipant(NamedTuple):
    """What the registry has to know of a participant."""

    name: str
    node_id: int
    state: int


class StandingCertificate(NamedTuple):
    """What the registry has to know of a certificate."""

    certificate_id: str
    participant: str


async def tell_change(connection: Connection) -> None:
    """Counts the version up and tells every server, once this transaction commits.

    Call it after the participant's row was locked: all changes then take their locks in one order.
    """
    await connection.execute("update aegis.participant_version set version = version + 1")
    await connection.execute("select pg_notify(%s, '')", (CHANNEL,))


async def version(connection: Connection) -> int:
    """Returns the version that is committed."""
    cursor = await connection.execute("select version from aegis.participant_version")
    row = await cursor.fetchone()
    if row is None:
        raise RuntimeError("aegis.participant_version has lost its row")
    return int(row[0])


async def read_standing(connection: Connection) -> list[StandingParticipant]:
    """Returns everybody who ever enrolled."""
    async with connection.cursor(row_factory=class_row(StandingParticipant)) as cursor:
        await cursor.execute(
            "select name, node_id, state from aegis.participant where enrolled_at is not null"
        )
        return await cursor.fetchall()


async def read_certificates(connection: Connection, since: datetime) -> list[StandingCertificate]:
    """Returns the certificates that had not ended then."""
    async with connection.cursor(row_factory=class_row(StandingCertificate)) as cursor:
        await cursor.execute(
            """
            select certificate_id, participant from aegis.participant_certificate
            where ends_at > %s
            """,
            (since,),
        )
        return await cursor.fetchall()


async def lock(connection: Connection, name: str) -> StoredParticipant | None:
    """Returns a participant, which stays as it is until the transaction ends."""
    return await _participant(
        connection,
        """
        select name, node_id, state, invited_by, invited_at, secret_sha256, invitation_ends_at,
               redeemed_key_sha256, enrolled_at, revoked_at, reason, software
        from aegis.participant where name = %s for update
        """,
        (name,),
    )


async def lock_by_secret(connection: Connection, secret_sha256: bytes) -> StoredParticipant | None:
    """Returns the participant an invitation is for, and locks it."""
    return await _participant(
        connection,
        """
        select name, node_id, state, invited_by, invited_at, secret_sha256, invitation_ends_at,
               redeemed_key_sha256, enrolled_at, revoked_at, reason, software
        from aegis.participant where secret_sha256 = %s for update
        """,
        (secret_sha256,),
    )


async def insert(
    connection: Connection,
    name: str,
    *,
    invited_by: str,
    now: datetime,
    secret_sha256: bytes,
    invitation_ends_at: datetime,
) -> bool:
    """Stores an invitation; False when there is a participant of this name."""
    cursor = await connection.execute(
        """
        insert into aegis.participant
            (name, state, invited_by, invited_at, secret_sha256, invitation_ends_at)
        values (%s, %s, %s, %s, %s, %s)
        on conflict (name) do nothing
        """,
        (name, INVITED, invited_by, now, secret_sha256, invitation_ends_at),
    )
    return cursor.rowcount == 1


async def invite_again(
    connection: Connection,
    name: str,
    *,
    invited_by: str,
    now: datetime,
    secret_sha256: bytes,
    invitation_ends_at: datetime,
) -> None:
    """Replaces the invitation of a locked participant that has not used it."""
    await connection.execute(
        """
        update aegis.participant
        set invited_by = %s, invited_at = %s, secret_sha256 = %s, invitation_ends_at = %s
        where name = %s
        """,
        (invited_by, now, secret_sha256, invitation_ends_at, name),
    )


async def enrol(connection: Connection, name: str, *, key_sha256: bytes, now: datetime) -> None:
    """Stores that a locked participant has redeemed its invitation."""
    await connection.execute(
        """
        update aegis.participant
        set state = %s, redeemed_key_sha256 = %s, enrolled_at = %s
        where name = %s
        """,
        (ENROLLED, key_sha256, now, name),
    )


async def revoke(connection: Connection, name: str, *, reason: str, now: datetime) -> None:
    """Stores that the participation of a locked participant has ended."""
    await connection.execute(
        "update aegis.participant set state = %s, revoked_at = %s, reason = %s where name = %s",
        (REVOKED, now, reason, name),
    )


async def insert_certificate(connection: Connection, certificate: StoredCertificate) -> None:
    """Stores a certificate that was issued."""
    await connection.execute(
        """
        insert into aegis.participant_certificate
            (certificate_id, participant, certificate_pem, key_sha256, issued_at, ends_at)
        values (%s, %s, %s, %s, %s, %s)
        """,
        (
            certificate.certificate_id,
            certificate.participant,
            certificate.certificate_pem,
            certificate.key_sha256,
            certificate.issued_at,
            certificate.ends_at,
        ),
    )


async def certificates_of(
    connection: Connection, name: str, now: datetime
) -> list[StoredCertificate]:
    """Returns the certificates of a participant that have not ended, newest first."""
    async with connection.cursor(row_factory=class_row(StoredCertificate)) as cursor:
        await cursor.execute(
            """
            select certificate_id, participant, certificate_pem, key_sha256, issued_at, ends_at
            from aegis.participant_certificate
            where participant = %s and ends_at > %s order by ends_at desc, issued_at desc
            """,
            (name, now),
        )
        return await cursor.fetchall()


async def page(
    connection: Connection, *, name: str = "", after: str = "", limit: int = 1
) -> list[StoredParticipant]:
    """Returns participants by name with their streams: that one, or those behind another."""
    async with connection.cursor(row_factory=class_row(StoredParticipant)) as cursor:
        await cursor.execute(
            """
            select p.name, p.node_id, p.state, p.invited_by, p.invited_at, p.secret_sha256,
                   p.invitation_ends_at, p.redeemed_key_sha256, p.enrolled_at, p.revoked_at,
                   p.reason, p.software,
                   (select max(c.ends_at) from aegis.participant_certificate c
                    where c.participant = p.name) as certificate_ends_at,
                   a.seen_at as stream_seen_at,
                   coalesce(a.clock_offset_seconds, 0) as clock_offset_seconds
            from aegis.participant p left join aegis.attendance a on a.participant = p.name
            where (%(name)s = '' or p.name = %(name)s) and p.name collate "C" > %(after)s
            order by p.name collate "C" limit %(limit)s
            """,
            {"name": name, "after": after, "limit": limit},
        )
        return await cursor.fetchall()


async def _participant(
    connection: Connection, query: str, values: tuple[Any, ...]
) -> StoredParticipant | None:
    async with connection.cursor(row_factory=class_row(StoredParticipant)) as cursor:
        await cursor.execute(query.encode(), values)
        return await cursor.fetchone()
