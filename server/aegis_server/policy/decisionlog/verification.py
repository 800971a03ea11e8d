"""Says whether the decision log is still what was written.

1. The rows of every batch have the digest the batch says, in their order, and kept attributes the
   digest their row says.
2. Every batch has the chain hash that follows from what is said of it and from the batch before.
3. The batches of a log are numbered without a hole.
4. Every audit record that commits to batches finds them there, with the chain hash it holds and the
   counts it tells.
5. No row is there that belongs to no batch.

What retention dropped, and said so, is not missing. Batches behind the last record of their log are
chained, but nobody outside holds their hash yet: they are counted as open. The audit log itself is
verified by `aegis audit verify`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from aegis.serving.auditlog.store import Filter as AuditFilter
from aegis.serving.auditlog.store import Store
from aegis.serving.database import Connection, Database
from aegis.v1 import audit_pb2
from aegis_server.policy.decisionlog import store
from aegis_server.policy.decisionlog.batches import Batch
from aegis_server.policy.decisionlog.commitment import OUTCOME
from aegis_server.policy.decisionlog.lines import (
    GENESIS,
    digest_of_attributes,
    digest_of_lines,
    text_of,
)
from aegis_server.policy.decisionlog.store import Row

_BATCHES = 100
_RECORDS = 1000


@dataclass(slots=True)
class Verification:
    """What was looked at, and what is wrong."""

    decisions: int = 0
    batches: int = 0
    commitments: int = 0
    unrecorded: int = 0
    open_batches: int = 0
    problems: list[str] = field(default_factory=list)


async def verify(database: Database) -> Verification:
    """Reads the whole decision log, and the audit records that commit to it."""
    found = Verification()
    records = await _records(database)
    dropped = max(
        (date.fromisoformat(each.details["day"]) for each in records if each.outcome == "dropped"),
        default=date.min,
    )
    commitments: dict[uuid.UUID, list[_Commitment]] = {}
    for record in records:
        if record.outcome == OUTCOME:
            commitments.setdefault(uuid.UUID(record.subject_id), []).append(_Commitment(record))
            found.commitments += 1
    async with database.transaction() as connection:
        logs = await store.logs(connection)
    for log_id in sorted({*logs, *commitments}):
        committed = commitments.get(log_id, [])
        await _verify_log(database, log_id, committed, found, dropped)
        found.problems += _faults_of_commitments(log_id, committed, dropped)
    async with database.transaction() as connection:
        for day, count in await store.strays(connection):
            found.problems.append(f"{count} decisions of {day} belong to no batch: added")
    return found


class _Commitment:
    """An audit record, and what is there of the batches it commits to."""

    def __init__(self, record: audit_pb2.AuditRecord) -> None:
        self.name = f"audit record {record.index}"
        self.details = dict(record.details)
        self.first = int(self.details["first_batch"])
        self.last = int(self.details["last_batch"])
        self.there = 0
        self.chain = ""
        self.counts = {"allow": 0, "deny": 0}

    def take(self, batch: Batch) -> None:
        """Takes the next of its batches."""
        self.there += 1
        tally = json.loads(batch.tally)
        for effect in self.counts:
            self.counts[effect] += sum(tally[effect].values())
        if batch.number == self.last:
            self.chain = batch.chain.hex()

    def faults(self, dropped: date) -> Iterator[str]:
        """Yields what of it is not so."""
        if self.there < self.last - self.first + 1:
            # Days go from the oldest on: the first batches may be gone, the last only with its day.
            if datetime.fromisoformat(self.details["from"]).date() > dropped:
                yield f"of batches {self.first} to {self.last} of {self.name} some are missing"
        elif any(self.details[effect] != str(count) for effect, count in self.counts.items()):
            yield f"{self.name} counts other decisions than are there: {self.counts}"
        until = datetime.fromisoformat(self.details["until"]).date()
        if self.chain != self.details["chain"] and (self.chain or until > dropped):
            yield f"batch {self.last} has not the chain hash that {self.name} holds"


async def _records(database: Database) -> list[audit_pb2.AuditRecord]:
    audit, start = Store("aegis"), 0
    found: list[audit_pb2.AuditRecord] = []
    chosen = AuditFilter(kinds=(audit_pb2.AUDIT_KIND_DECISION,), resource="/policy/decisions")
    async with database.transaction() as connection:
        size, _ = await audit.head(connection)
    while True:
        async with database.transaction() as connection:
            page = await audit.page_from(
                connection, start=start, end=size, limit=_RECORDS, chosen=chosen
            )
        if not page:
            return found
        found += [audit_pb2.AuditRecord.FromString(record) for _, record in page]
        start = page[-1][0] + 1


async def _verify_log(
    database: Database,
    log_id: uuid.UUID,
    commitments: Sequence[_Commitment],
    found: Verification,
    dropped: date,
) -> None:
    """Checks rows and chain of a log, and shows its batches to what commits to them."""
    before: Batch | None = None
    left = list(reversed(commitments))
    while True:
        after = before.number if before is not None else 0
        async with database.transaction() as connection:
            some = await store.batches(connection, log_id, after=after, limit=_BATCHES)
            rows = await _rows(connection, some)
        if not some:
            return
        for batch in some:
            found.batches += 1
            found.decisions += batch.decisions
            found.unrecorded += batch.unrecorded
            found.problems += _faults_of_batch(batch, before, dropped)
            # Rows of a day that was dropped may belong to a batch that was written the day after.
            if batch.first_at.date() > dropped:
                found.problems += _faults_of_rows(batch, rows.get(batch.number, []))
            while left and left[-1].last < batch.number:
                left.pop()
            if left and left[-1].first <= batch.number:
                left[-1].take(batch)
            else:
                found.open_batches += not left
            before = batch


async def _rows(connection: Connection, some: Sequence[Batch]) -> dict[int, list[Row]]:
    rows: dict[int, list[Row]] = {}
    for row in await store.rows_of(connection, some) if some else []:
        rows.setdefault(row.batch, []).append(row)
    return rows


def _faults_of_batch(batch: Batch, before: Batch | None, dropped: date) -> Iterator[str]:
    name = f"batch {batch.number} of {batch.log}"
    if batch.chained_again() != batch.chain:
        yield f"{name} is not the one that was chained: edited"
    if before is None:
        first = batch.number == 1 and batch.prev_chain == GENESIS
        # Retention takes the oldest; whether it took only those, the audit records tell.
        if not first and dropped == date.min:
            yield f"what was before {name} is missing"
    elif batch.number != before.number + 1:
        yield f"between batch {before.number} and {name} some are missing, or it is there twice"
    elif batch.prev_chain != before.chain:
        yield f"{name} does not continue the one before"


def _faults_of_rows(batch: Batch, rows: Sequence[Row]) -> Iterator[str]:
    name = f"batch {batch.number} of {batch.log}"
    if len(rows) != batch.decisions:
        yield f"{name} has {len(rows)} decisions, not {batch.decisions}: deleted or added"
    elif digest_of_lines(_text(row) for row in rows) != batch.rows_digest:
        yield f"decisions of {name} were edited or reordered"
    for row in rows:
        if row.attributes is None:
            continue
        if digest_of_attributes(row.attributes) != bytes(row.attributes_digest).hex():
            yield f"attributes of decision {row.decision_id} were edited"


def _faults_of_commitments(
    log_id: uuid.UUID, commitments: Sequence[_Commitment], dropped: date
) -> Iterator[str]:
    last = 0
    for commitment in commitments:
        if commitment.first != last + 1:
            yield f"no audit record speaks of batches {last + 1} to {commitment.first - 1}"
        last = commitment.last
        yield from (f"{log_id}: {fault}" for fault in commitment.faults(dropped))


def _text(row: Row) -> str:
    return text_of(
        row.at.astimezone(UTC),
        row.decision_id,
        row.effect,
        row.source,
        row.revision,
        row.microseconds,
        bytes(row.attributes_digest).hex(),
        (row.caller, row.subject, row.domain, row.resource, row.action, row.rule_id),
    )
