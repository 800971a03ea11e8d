"""SQL of participants, their certificates and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True)
class StoredHolding:
    """What a participant was invited for; `rows` is None until it was declared."""

    participant: str
    dataset: str
    rows_max: int
    rows: int | None = None
    class_counts: list[int] = field(default_factory=list)
    noised: bool = False
    provenance: str = ""
    declared_at: datetime | None = None

    @property
    def examples(self) -> int:
        """What counts: the rows, at most the bound of the invitation."""
        return min(self.rows or 0, self.rows_max)


class StandingParticipant(NamedTuple):
    """What the registry has to know of a participant."""

    name: str
    node_id: int
    state: int


class StandingCertificate(NamedTuple):
    """What the registry has to know of a certificate."""

    certificate_id: str
    participant: str


class Site(NamedTuple):
    """A participant that can take part in a run on a data set, with the weight it has there."""

    name: str
    node_id: int
    examples: int


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


async def replace_holdings(
    connection: Connection, participant: str, bounds: Sequence[tuple[str, int]]
) -> None:
    """Stores what a participant is invited for, in place of what it was."""
    await connection.execute("delete from aegis.holding where participant = %s", (participant,))
    for dataset, rows_max in bounds:
        await connection.execute(
            "insert into aegis.holding (participant, dataset, rows_max) values (%s, %s, %s)",
            (participant, dataset, rows_max),
        )


async def declare(connection: Connection, holding: StoredHolding) -> StoredHolding | None:
    """Stores what a participant says it holds; None when it was not invited for that."""
    async with connection.cursor(row_factory=class_row(StoredHolding)) as cursor:
        await cursor.execute(
            """
            update aegis.holding
            set rows = %(rows)s, class_counts = %(class_counts)s, noised = %(noised)s,
                provenance = %(provenance)s, declared_at = %(declared_at)s
            where participant = %(participant)s and dataset = %(dataset)s
            returning participant, dataset, rows_max, rows, class_counts, noised, provenance,
                      declared_at
            """,
            {
                "participant": holding.participant,
                "dataset": holding.dataset,
                "rows": holding.rows,
                "class_counts": holding.class_counts,
                "noised": holding.noised,
                "provenance": holding.provenance,
                "declared_at": holding.declared_at,
            },
        )
        return await cursor.fetchone()


async def holdings_of(connection: Connection, participants: Sequence[str]) -> list[StoredHolding]:
    """Returns what these participants were invited for, declared or not, by data set."""
    async with connection.cursor(row_factory=class_row(StoredHolding)) as cursor:
        await cursor.execute(
            """
            select participant, dataset, rows_max, rows, class_counts, noised, provenance,
                   declared_at
            from aegis.holding where participant = any(%s) order by participant, dataset
            """,
            (list(participants),),
        )
        return await cursor.fetchall()


async def holdings_for(connection: Connection, datasets: Sequence[str]) -> list[StoredHolding]:
    """Returns what enrolled participants have declared of these data sets."""
    async with connection.cursor(row_factory=class_row(StoredHolding)) as cursor:
        await cursor.execute(
            """
            select h.participant, h.dataset, h.rows_max, h.rows, h.class_counts, h.noised,
                   h.provenance, h.declared_at
            from aegis.holding h join aegis.participant p on p.name = h.participant
            where h.dataset = any(%s) and h.rows is not null and p.state = %s
            order by h.dataset, h.participant
            """,
            (list(datasets), ENROLLED),
        )
        return await cursor.fetchall()


async def sites_for(connection: Connection, dataset: str) -> list[Site]:
    """Returns the enrolled participants that hold rows of a data set, by name."""
    async with connection.cursor(row_factory=class_row(Site)) as cursor:
        await cursor.execute(
            """
            select p.name, p.node_id, least(h.rows, h.rows_max) as examples
            from aegis.holding h join aegis.participant p on p.name = h.participant
            where h.dataset = %s and h.rows is not null and p.state = %s
            order by p.name collate "C"
            """,
            (dataset, ENROLLED),
        )
        return await cursor.fetchall()


async def _participant(
    connection: Connection, query: str, values: tuple[Any, ...]
) -> StoredParticipant | None:
    async with connection.cursor(row_factory=class_row(StoredParticipant)) as cursor:
        await cursor.execute(query.encode(), values)
        return await cursor.fetchone()
