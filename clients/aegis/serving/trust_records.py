"""Which trust bundle was in use, and since when, for the audit log.

The log is also how a program knows after a restart what it had seen: an older bundle brings no key
back (`LiveTrust.refuse_older`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from datetime import UTC, datetime

from aegis.errors import Unavailable
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.checkpointing.store import CheckpointStore
from aegis.serving.trusting import LiveTrust, Seen
from aegis.v1 import audit_pb2

_LOOK_SECONDS = 1.0
_KIND = audit_pb2.AUDIT_KIND_KEY_CHANGE
_OUTCOME = "in_use"


async def last_recorded(audit: AuditLog, *, schema: str, actor: str) -> Seen | None:
    """Returns the bundle that the log says `actor` used last, or None."""
    async with audit.database.transaction() as connection:
        store = CheckpointStore(schema)
        stored = await store.last_record(connection, _KIND, actor, _OUTCOME)
    if stored is None:
        return None
    details = audit_pb2.AuditRecord.FromString(stored).details
    return Seen(details["root"], int(details["version"]))


async def record_trust(trust: LiveTrust, audit: AuditLog, *, actor: str) -> None:
    """Records the bundle at the start and whenever it changes, until cancelled.

    A record that cannot be written now is written later; the bundle counts meanwhile.
    """
    recorded = b""
    while True:
        if (digest := hashlib.sha256(trust.to_json()).digest()) != recorded:
            with contextlib.suppress(Unavailable):
                await audit.record(_entry(trust, digest, actor))
                recorded = digest
        await asyncio.sleep(_LOOK_SECONDS)


def _entry(trust: LiveTrust, digest: bytes, actor: str) -> Entry:
    now = datetime.now(UTC)
    return Entry(
        kind=_KIND,
        actor=actor,
        action="trust",
        resource="/identity/keys",
        outcome=_OUTCOME,
        subject_id="trust",
        details={
            "version": str(trust.version),
            "root": trust.seen.root,
            "sha256": digest.hex(),
            "counting": str(sum(key.usable(now) for key in trust.keys)),
            "revoked": " ".join(key.key_id for key in trust.keys if key.revoked_at),
        },
    )
