"""Which trust bundle was in use, and since when, for the audit log."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from datetime import UTC, datetime

from aegis.errors import Unavailable
from aegis.serving.auditlog import AuditLog, Entry
from aegis.trust import TrustBundle
from aegis.v1 import audit_pb2

_LOOK_SECONDS = 1.0


async def record_trust(trust: TrustBundle, audit: AuditLog, *, actor: str) -> None:
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


def _entry(trust: TrustBundle, digest: bytes, actor: str) -> Entry:
    now = datetime.now(UTC)
    return Entry(
        kind=audit_pb2.AUDIT_KIND_KEY_CHANGE,
        actor=actor,
        action="trust",
        resource="/identity/keys",
        outcome="in_use",
        subject_id="trust",
        details={
            "version": str(trust.version),
            "sha256": digest.hex(),
            "counting": str(sum(key.usable(now) for key in trust.keys)),
            "revoked": " ".join(key.key_id for key in trust.keys if key.revoked_at),
        },
    )
