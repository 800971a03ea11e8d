"""Letting a model go that was blocked: somebody says that it may, and why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from aegis.errors import FailedPrecondition
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Database
from aegis.serving.doors import Call
from aegis.v1 import audit_pb2
from aegis_server.checkpoints import store
from aegis_server.checkpoints.models import Model, Models

_RESOURCE = "/training/models"


class Releases:
    """Releases blocked models, on the record."""

    def __init__(
        self, database: Database, models: Models, audit: AuditLog, *, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._models = models
        self._audit = audit
        self._clock = clock

    async def release(self, model_id: str, by: Call, *, run_id: str, reason: str) -> Model:
        """Lets these bytes leave, of one run if it is named, and returns the model.

        Raises as `Models.get`, and `FailedPrecondition` (STATE_CONFLICT) when nobody blocks them.
        """
        model = await self._models.get(model_id, run_id=run_id)
        digest = model.stored.model_sha256
        async with self._database.transaction() as connection:
            released = await store.release(
                connection,
                digest,
                run_id=run_id,
                by=by.caller.subject,
                reason=reason,
                at=self._clock(),
            )
            if not released:
                raise FailedPrecondition(
                    "STATE_CONFLICT",
                    f"the model {digest.hex()[:12]} is not blocked",
                    resource=digest.hex(),
                    state="not blocked",
                )
            for run, number in released:
                await self._audit.record_in(connection, _entry(digest, run, number, by, reason))
        return await self._models.get(digest.hex(), run_id=released[-1][0])


def _entry(digest: bytes, run_id: str, number: int, by: Call, reason: str) -> Entry:
    return Entry(
        kind=audit_pb2.AUDIT_KIND_RUN,
        actor=by.caller.subject,
        action="release",
        resource=f"{_RESOURCE}/{digest.hex()}",
        outcome="released",
        policy_revision=by.grant.revision,
        rule_id=by.grant.rule_id,
        subject_id=run_id,
        details={"round": str(number), "model_sha256": digest.hex(), "reason": reason},
    )
