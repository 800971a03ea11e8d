"""Real audit logs for tests: written through the real log, copied to real files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis import algorithms
from aegis.audit.chain import GENESIS, chain_hash, leaf_hash
from aegis.audit.copies import CopyWriter
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.checkpointing.cutting import Checkpoints
from aegis.serving.database import Database
from aegis.trust import AUDIT_CHECKPOINT, AUDIT_WITNESS, TrustBundle, TrustedKey
from aegis.v1 import audit_pb2

START = datetime(2026, 5, 1, 12, tzinfo=UTC)


def entry(outcome: str = "allow", **fields: object) -> Entry:
    """A decision about user:alice, unless told otherwise."""
    values = {
        "kind": audit_pb2.AUDIT_KIND_DECISION,
        "actor": "user:alice",
        "action": "read",
        "resource": "/policy",
        "outcome": outcome,
    } | fields
    return Entry(**values)  # type: ignore[arg-type]


@dataclass
class Clock:
    """A clock that stands until it is told to move."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class Keys:
    """Keys of a log and of a witness, and the bundle that says so."""

    log: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    witness: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def trust(self, *log_ids: str) -> TrustBundle:
        rows = [
            (AUDIT_CHECKPOINT, f"log:{name}", self.log) for name in log_ids or ("aegis-server",)
        ]
        # One key has one use; logs of one test may share theirs all the same.
        keys = [
            TrustedKey(
                key_id=algorithms.key_id(key.public_key()),
                usage=usage,
                owner=owner,
                public_key=key.public_key(),
                not_before=START - timedelta(days=1),
                not_after=START + timedelta(days=365),
            )
            for usage, owner, key in (*rows, (AUDIT_WITNESS, "witness:local", self.witness))
        ]
        return TrustBundle(tuple(keys))

    def write(self, path: Path, *log_ids: str) -> Path:
        keys = [key.to_json() for key in self.trust(*log_ids).keys]
        path.write_text(json.dumps({"keys": keys}))
        return path


@dataclass
class Written:
    """A log with its checkpoints in a database."""

    database: Database
    keys: Keys = field(default_factory=Keys)
    clock: Clock = field(default_factory=Clock)
    log_id: str = "aegis-server"
    schema: str = "aegis"

    def __post_init__(self) -> None:
        self.audit = AuditLog(
            self.database, log_id=self.log_id, clock=self.clock, schema=self.schema
        )
        self.kept = Checkpoints(self.audit, self.keys.log, clock=self.clock, schema=self.schema)

    async def write(self, *entries: Entry) -> None:
        async with self.database.transaction() as connection:
            await self.audit.record_in(connection, *entries)

    async def stored(self) -> list[audit_pb2.StoredAuditRecord]:
        async with self.database.transaction() as connection:
            rows = await self.audit.store.stored_from(connection, start=0, limit=100_000)
        return [
            audit_pb2.StoredAuditRecord(
                record=row.record,
                leaf_hash=row.leaf_hash,
                prev_chain_hash=row.prev_chain_hash,
                chain_hash=row.chain_hash,
                attachments=[
                    audit_pb2.AuditAttachment(name=a.name, salt=a.salt, content=a.content)
                    for a in row.attachments
                ],
            )
            for row in rows
        ]

    async def copy(self, directory: Path) -> Path:
        with CopyWriter(directory / self.log_id) as copy:
            for stored in await self.stored():
                copy.add(stored)
            for kept in await self.kept.since(0, 0, 1000):
                copy.add_note(kept.note)
        return directory


def chained(records: Iterable[audit_pb2.StoredAuditRecord]) -> int:
    """Recomputes a chain; returns its length, or fails at the first record that does not fit."""
    previous, count = GENESIS, 0
    for index, stored in enumerate(records):
        leaf = leaf_hash(stored.record)
        assert (stored.leaf_hash, stored.prev_chain_hash) == (leaf, previous), index
        previous = chain_hash(previous, leaf)
        assert stored.chain_hash == previous, index
        assert audit_pb2.AuditRecord.FromString(stored.record).index == index
        count += 1
    return count
