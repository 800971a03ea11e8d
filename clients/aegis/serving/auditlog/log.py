"""The log itself: entries become records, records get their place and their hashes.

Two ways in, one order. `record_in` appends inside a caller's transaction, so that a deed and its
record are one; `record` is for facts without a deed of their own (a decision), and shares one
transaction and one fsync among all that wait at the same moment (group commit).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from aegis.audit.chain import SCHEMA_VERSION, chain_hash, leaf_hash
from aegis.audit.merkle import Frontier, peaks_of
from aegis.errors import AegisError, Unavailable
from aegis.serving.auditlog.store import Appended, Attachment, Index, Row, Store
from aegis.serving.database import Connection, Database
from aegis.v1 import audit_pb2

log = logging.getLogger(__name__)

_BATCH = 512
_HALVED_FROM = 16
_GATHER_SECONDS = 0.0005
_WAIT_SECONDS = 5.0
_SALT_BYTES = 16
_CATCH_UP = 2000
# A transaction that was rolled back leaves an edge nobody continues; those before it are kept.
_EDGES_MAX = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """A fact to be recorded; the fields are those of `aegis.v1.AuditRecord`.

    What may hold personal data belongs into `attachments`: stored beside the record, which keeps
    a salted hash, so that it can be erased.
    """

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
    attachments: Mapping[str, bytes] = field(default_factory=dict)


class Growth:
    """Wakes whoever waits for the log to grow."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        """Wakes all who wait."""
        grown, self._next = self._next, asyncio.Event()
        grown.set()

    async def wait(self, seconds: float) -> None:
        """Returns when this process has appended something, or after so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._next.wait()


class AuditLog:
    """Appends to the log in one schema. Run `run()` as a task for as long as `record` is used."""

    def __init__(
        self,
        database: Database,
        *,
        log_id: str,
        clock: Callable[[], datetime],
        schema: str = "aegis",
    ) -> None:
        self.log_id = log_id
        self.growth = Growth()
        self.store = Store(schema)
        self.database = database
        self._clock = clock
        self._waiting: asyncio.Queue[tuple[Entry, asyncio.Future[None]]] = asyncio.Queue(4096)
        self._edges: OrderedDict[tuple[int, bytes], Frontier] = OrderedDict()
        self._idle = 0
        # Size and chain hash as this process made them last; its edge is among those kept.
        self._head: tuple[int, bytes] | None = None

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

        Call it last: the log's lock is held from here to the commit. What is appended was made for
        the head this process saw last, so that lock, look and insert are one round trip; when the
        log has grown elsewhere, nothing was inserted, and it is made again for the head there is.
        """
        index, previous = self._head or await self.store.lock_head(connection)
        while True:
            edge = await self._edge(connection, index, previous)
            appended = self._appended(entries, index, previous, edge)
            # Whoever comes next may build on it while it is being stored.
            self._keep(index + len(entries), appended.rows[-1].chain_hash, edge)
            head = await self.store.append(connection, previous, appended)
            if head == (index, previous):
                break
            index, previous = head
        # Committed by then in most cases; who waits looks again soon in any case.
        asyncio.get_running_loop().call_later(0.05, self.growth.tell)

    def _appended(
        self, entries: Sequence[Entry], index: int, previous: bytes, edge: Frontier
    ) -> Appended:
        """Returns what the entries are at that place of the log; moves `edge` behind them."""
        now = self._clock()
        rows, lookups, beside = [], [], []
        for entry in entries:
            attachments = [
                Attachment(index, name, secrets.token_bytes(_SALT_BYTES), content)
                for name, content in entry.attachments.items()
            ]
            record = self._record(entry, index, now, attachments)
            leaf = leaf_hash(record)
            chained = chain_hash(previous, leaf)
            rows.append(Row(index, entry.kind, entry.subject_id, record, leaf, previous, chained))
            names = (entry.actor, entry.action, entry.resource, entry.outcome)
            lookups.append(Index(index, *names, b"".join(edge.append(leaf))))
            beside += attachments
            index, previous = index + 1, chained
        return Appended(now, rows, lookups, beside)

    async def catch_up(self) -> None:
        """Makes the index rows that a log of an older Aegis lacks; nothing to do otherwise."""
        while True:
            async with self.database.transaction() as connection:
                size, _ = await self.store.lock_head(connection)
                if await self._index_some(connection) >= size:
                    return

    async def state(self) -> tuple[int, bytes, bytes]:
        """Returns size, root and chain hash, of one moment."""
        async with self.database.transaction() as connection:
            return await self.state_in(connection)

    async def state_in(self, connection: Connection) -> tuple[int, bytes, bytes]:
        """As `state`, in the caller's transaction."""
        size, chained = await self.store.head(connection)
        peaks = await self.store.nodes(connection, peaks_of(size))
        return size, Frontier(size, peaks).root(), chained

    async def run(self) -> None:
        """Serves `record` until cancelled.

        Two take turns: while Postgres stores what one of them made, the other makes the next.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(self._serve())

    async def _serve(self) -> None:
        usual = 0
        while True:
            # Those just released come first to where they hand in the next one, if they do.
            await asyncio.sleep(0)
            self._idle += 1
            batch = [await self._waiting.get()]
            self._idle -= 1
            if 0 < self._waiting.qsize() < usual:
                # Busy, and fewer than last time: a moment more, so that one commit serves more.
                await asyncio.sleep(_GATHER_SECONDS)
            waiting = self._waiting.qsize() + 1
            # One that has nothing to do gets its half of many.
            most = waiting // 2 if self._idle and waiting >= _HALVED_FROM else waiting
            while len(batch) < min(most, _BATCH) and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            usual = len(batch) - 1
            await self._commit(batch)

    async def _commit(self, batch: Sequence[tuple[Entry, asyncio.Future[None]]]) -> None:
        # A caller that stopped waiting was told "not recorded": its entry must not appear later.
        wanted = [(entry, done) for entry, done in batch if not done.done()]
        if not wanted:
            return
        failure: AegisError | None = None
        try:
            async with self.database.transaction() as connection:
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

    async def _edge(self, connection: Connection, size: int, chained: bytes) -> Frontier:
        """Returns the tree's right edge at a head, to be continued; one that is not kept is read.

        Reading takes the log's lock to be held.
        """
        kept = self._edges.get((size, chained))
        if kept is not None:
            return Frontier(size, [*kept.peaks])
        while await self._index_some(connection) < size:
            log.warning("the audit log of an older version gets its index")
        return Frontier(size, await self.store.nodes(connection, peaks_of(size)))

    def _keep(self, size: int, chained: bytes, edge: Frontier) -> None:
        self._edges[(size, chained)] = edge
        self._head = size, chained
        if len(self._edges) > _EDGES_MAX:
            self._edges.popitem(last=False)

    async def _index_some(self, connection: Connection) -> int:
        """Indexes some records that are not; returns how many then are. Behind the lock only."""
        done = await self.store.indexed(connection)
        stored = await self.store.stored_from(connection, start=done, limit=_CATCH_UP)
        if not stored:
            return done
        edge = Frontier(done, await self.store.nodes(connection, peaks_of(done)))
        rows = []
        for each in stored:
            record = audit_pb2.AuditRecord.FromString(each.record)
            names = (record.actor, record.action, record.resource, record.outcome)
            rows.append(Index(each.idx, *names, b"".join(edge.append(each.leaf_hash))))
        await self.store.insert_index(connection, rows)
        return done + len(rows)

    def _record(
        self, entry: Entry, index: int, now: datetime, attachments: Sequence[Attachment]
    ) -> bytes:
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
        message.time.FromDatetime(now)
        for name, content in entry.evidence.items():
            message.evidence.add(name=name, content=content)
        for beside in attachments:
            digest = hashlib.sha256(beside.salt + beside.content).digest()
            message.attachments.add(name=beside.name, sha256=digest)
        return message.SerializeToString()
