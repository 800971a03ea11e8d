"""The log itself: entries become records, records get their place and their hashes.

Two ways in, one order. `record_in` appends inside a caller's transaction, so that a deed and its
record are one; `record` is for facts without a deed of their own (a decision), and shares one
transaction and one fsync among all that wait at the same moment (group commit).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from aegis.audit.chain import SCHEMA_VERSION, chain_hash, leaf_hash
from aegis.errors import AegisError, Unavailable
from aegis.serving.database import Connection, Database
from aegis.v1 import audit_pb2
from aegis_server.audit import store

log = logging.getLogger(__name__)

_BATCH = 512
_GATHER_SECONDS = 0.002
_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A fact to be recorded; the fields are those of `aegis.v1.AuditRecord`."""

    kind: audit_pb2.AuditKind.ValueType
    actor: str
    action: str
    resource: str
    outcome: str
    reason: str = ""
    policy_revision: int = 0
    rule_id: str = ""
    subject_id: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, bytes] = field(default_factory=dict)


class AuditLog:
    """Appends to one log. Run `run()` as a task for as long as `record` is used."""

    def __init__(self, database: Database, *, log_id: str, clock: Callable[[], datetime]) -> None:
        self.log_id = log_id
        self._database = database
        self._clock = clock
        self._waiting: asyncio.Queue[tuple[Entry, asyncio.Future[None]]] = asyncio.Queue(4096)

    async def record(self, entry: Entry) -> None:
        """Returns once the entry is durable.

        Raises `Unavailable` (AUDIT_UNAVAILABLE) when that does not happen in time; what depends
        on the record must then not happen either.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._waiting.put((entry, done))
                await done
        except (TimeoutError, AegisError) as error:
            raise Unavailable("AUDIT_UNAVAILABLE", "the audit log cannot be written") from error

    async def record_in(self, connection: Connection, *entries: Entry) -> None:
        """Appends inside the caller's transaction.

        Call it last: the log's lock is held from here to the commit.
        """
        index, previous = await store.lock_head(connection)
        rows = []
        for entry in entries:
            record = self._record(entry, index)
            leaf = leaf_hash(record)
            chained = chain_hash(previous, leaf)
            rows.append(
                store.Row(
                    index,
                    self._clock(),
                    entry.kind,
                    entry.subject_id,
                    record,
                    leaf,
                    previous,
                    chained,
                )
            )
            index, previous = index + 1, chained
        await store.insert(connection, rows)

    async def run(self) -> None:
        """Serves `record` until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            if not self._waiting.empty():
                # Busy: a moment more, so that one commit serves more of them.
                await asyncio.sleep(_GATHER_SECONDS)
            while len(batch) < _BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await self._commit(batch)

    async def _commit(self, batch: Sequence[tuple[Entry, asyncio.Future[None]]]) -> None:
        # A caller that stopped waiting was told "not recorded": its entry must not appear later.
        wanted = [(entry, done) for entry, done in batch if not done.done()]
        if not wanted:
            return
        failure: AegisError | None = None
        try:
            async with self._database.transaction() as connection:
                await self.record_in(connection, *(entry for entry, _ in wanted))
        except AegisError as error:
            log.warning("%d audit records were not written: %s", len(wanted), error.message)
            failure = error
        for _, done in wanted:
            if done.done():
                continue
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)

    def _record(self, entry: Entry, index: int) -> bytes:
        message = audit_pb2.AuditRecord(
            schema_version=SCHEMA_VERSION,
            log_id=self.log_id,
            index=index,
            kind=entry.kind,
            actor=entry.actor,
            action=entry.action,
            resource=entry.resource,
            outcome=entry.outcome,
            reason=entry.reason,
            policy_revision=entry.policy_revision,
            rule_id=entry.rule_id,
            subject_id=entry.subject_id,
            details=dict(entry.details),
        )
        message.time.FromDatetime(self._clock())
        for name, content in entry.evidence.items():
            message.evidence.add(name=name, content=content)
        return message.SerializeToString()
