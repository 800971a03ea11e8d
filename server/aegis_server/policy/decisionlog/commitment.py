"""Commits to decisions in the audit log: one record for all batches of some ten seconds.

A record holds the chain hash of the last batch, so that nobody can change a row, a batch or their
order without contradicting the audit log. What is counted in it is read back from the batches, so a
record that is made twice counts nothing twice; a record for what a crashed server left behind is
made by whoever finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from aegis.errors import AegisError
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Database
from aegis.v1 import audit_pb2
from aegis_server.policy.decisionlog import store
from aegis_server.policy.decisionlog.batches import Batch

log = logging.getLogger(__name__)

RESOURCE = "/policy/decisions"
ACTION, OUTCOME = "evaluate", "logged"
_DECISIONS_MAX = 100_000
_RETRY_SECONDS = 1.0
# The record names so many rules and subjects; the totals count all.
_NAMES_MAX = 50
# A server that lives has committed to its own by then.
_LEFT_BEHIND = timedelta(minutes=2)
_LEFT_BEHIND_MAX = timedelta(days=7)


class Commitment:
    """Commits to one process' batches, and to those that nobody else will."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        *,
        log_id: uuid.UUID,
        actor: str,
        clock: Callable[[], datetime],
        seconds: float,
    ) -> None:
        self._database = database
        self._audit = audit
        self._log_id = log_id
        self._actor = actor
        self._clock = clock
        self._seconds = seconds
        self._open = 0
        self._some, self._plenty = asyncio.Event(), asyncio.Event()

    def tell(self, batch: Batch) -> None:
        """Hears of a batch that was stored."""
        self._open += batch.decisions + batch.unrecorded
        self._some.set()
        if self._open >= _DECISIONS_MAX:
            self._plenty.set()

    async def run(self) -> None:
        """Commits until cancelled."""
        while True:
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._plenty.wait()
            if not await self._try(self.commit):
                await asyncio.sleep(_RETRY_SECONDS)

    async def run_for_others(self) -> None:
        """Looks for what crashed servers left behind, at the start and now and then."""
        while True:
            await self._try(self.commit_left_behind)
            await asyncio.sleep(_LEFT_BEHIND.total_seconds())

    async def commit(self) -> None:
        """Commits to all batches so far; raises what an absent database raises."""
        self._some.clear()
        self._plenty.clear()
        self._open = 0
        try:
            while await self._commit_some(self._log_id):
                pass
        except AegisError:
            self._some.set()
            raise

    async def commit_left_behind(self) -> None:
        """Commits to what servers wrote that crashed before they could."""
        now = self._clock()
        async with self._database.transaction() as connection:
            found = await store.left_behind(
                connection, after=now - _LEFT_BEHIND_MAX, before=now - _LEFT_BEHIND
            )
        for log_id in found:
            log.warning("committing to the decisions of %s, whose server is gone", log_id)
            while await self._commit_some(log_id):
                pass

    async def _try(self, deed: Callable[[], Awaitable[None]]) -> bool:
        try:
            await deed()
        except AegisError as error:
            log.warning("the audit log has no record of the last decisions yet: %s", error.message)
            return False
        return True

    async def _commit_some(self, log_id: uuid.UUID) -> bool:
        async with store.writing(self._database) as connection:
            batches = await store.uncommitted(connection, log_id)
            if not batches or not await store.commit_to(connection, batches, self._clock()):
                return False
            await self._audit.record_in(connection, record_of(batches, self._actor))
        return True


def record_of(batches: Sequence[Batch], actor: str) -> Entry:
    """Returns the audit record that commits to successive batches of a log."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("allow", "deny", "denied")}
    for batch in batches:
        for name, counted in json.loads(batch.tally).items():
            counts[name].update(counted)
    details = {
        "replica": batches[-1].replica,
        "first_batch": str(batches[0].number),
        "last_batch": str(batches[-1].number),
        "chain": batches[-1].chain.hex(),
        "from": batches[0].at.isoformat(),
        "until": batches[-1].at.isoformat(),
        "allow": str(counts["allow"].total()),
        "deny": str(counts["deny"].total()),
        "unrecorded": str(sum(batch.unrecorded for batch in batches)),
    }
    if gaps := [batch for batch in batches if batch.unrecorded_from and batch.unrecorded_until]:
        details["unrecorded_from"] = min(str(gap.unrecorded_from) for gap in gaps)
        details["unrecorded_until"] = max(str(gap.unrecorded_until) for gap in gaps)
    named = {name: dict(counted.most_common(_NAMES_MAX)) for name, counted in counts.items()}
    return Entry(
        kind=audit_pb2.AUDIT_KIND_DECISION,
        actor=actor,
        action=ACTION,
        resource=RESOURCE,
        outcome=OUTCOME,
        subject_id=str(batches[-1].log),
        details=details,
        evidence={"counts.json": json.dumps(named, sort_keys=True).encode()},
    )
