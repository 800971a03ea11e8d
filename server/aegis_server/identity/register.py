"""The register: the one way to change who is who.

A change takes the version's lock, does its deed and records it, in one transaction; then the
directory of this server sees it. Because changes follow one another, what a change looked at
before it acts (is there another administrator?) is still so when it commits.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

from aegis.errors import Unavailable
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis.v1 import audit_pb2
from aegis_server.identity import store
from aegis_server.identity.directory import Directory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """One open transaction, and what is to be recorded in it."""

    connection: Connection
    entries: list[Entry] = field(default_factory=list)

    def record(self, entry: Entry) -> None:
        """Has an entry written with the deed."""
        self.entries.append(entry)


class Register:
    """What all of identity stands on: database, record, directory and clock."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        directory: Directory,
        *,
        clock: Callable[[], datetime],
        address_key: bytes,
    ) -> None:
        self.database = database
        self.audit = audit
        self.directory = directory
        self.clock = clock
        self._address_key = address_key

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Change]:
        """Opens a change of who is who; commits with its records, or does nothing at all."""
        async with self.deed() as change:
            await store.begin_change(change.connection)
            yield change
        try:
            await self.directory.refresh()
        except Unavailable as error:
            # It is committed, and will be seen as soon as anything is.
            log.warning("a change of who is who is not yet in use: %s", error)

    @asynccontextmanager
    async def deed(self) -> AsyncIterator[Change]:
        """As `change`, for what the directory need not know, such as a login."""
        async with self.database.transaction() as connection:
            change = Change(connection)
            yield change
            if change.entries:
                await self.audit.record_in(connection, *change.entries)

    def key_of_address(self, email_key: str) -> str:
        """Returns what stands for an address where no address may: in records and in counters.

        Keyed, because anybody can hash a list of addresses.
        """
        return hmac.digest(self._address_key, email_key.encode(), hashlib.sha256).hex()[:32]


def entry(
    actor: str, action: str, resource: str, outcome: str, *, reason: str = "", **details: str
) -> Entry:
    """Returns a record about identity; it never holds anything personal."""
    return Entry(
        kind=audit_pb2.AUDIT_KIND_IDENTITY,
        actor=actor,
        action=action,
        resource=resource,
        outcome=outcome,
        reason=reason,
        subject_id=resource.rpartition("/")[2],
        details=details,
    )
