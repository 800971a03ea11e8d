"""Rounds: judged once, together.

A round is closed in one transaction, examined in a worker process without holding a connection,
and its verdicts are written in a second one with their audit records. Two callers at once may both
examine, but the row lock lets only the first write; both return what was written. A crash in
between leaves a closed round, and the next call judges exactly the same updates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from aegis.errors import NotFound
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis.serving.doors import Call
from aegis.v1 import audit_pb2
from aegis_server.objects.blobs import BlobStore
from aegis_server.review import store
from aegis_server.review.findings import encode, rows
from aegis_server.review.updates import RESOURCE, RunLookup, Update, details, update_of
from aegis_server.review.vetting import Case, Judgement, Ruling, Submission, vet
from aegis_server.workers import Workers

_EXAMINE_SECONDS = 60.0


class Rounds:
    """Judges rounds; the examiners run in `workers`."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        blobs: BlobStore,
        runs: RunLookup,
        workers: Workers,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._blobs = blobs
        self._runs = runs
        self._workers = workers
        self._clock = clock

    async def review(self, key: store.RoundKey, by: Call) -> list[Update]:
        """Returns the round's updates with their verdicts, judging them if nobody has.

        Raises `NotFound` when the round has no update.
        """
        judged, updates = await self._close(key)
        if judged:
            return updates
        case = await self._case(key, updates)
        async with asyncio.timeout(_EXAMINE_SECONDS):
            ruling = await self._workers.run(vet, case)
        return await self._settle(key, updates, ruling, by)

    async def _close(self, key: store.RoundKey) -> tuple[bool, list[Update]]:
        async with self._database.transaction() as connection:
            row = await store.lock_round(connection, key)
            if row is None:
                raise NotFound(
                    "RESOURCE_NOT_FOUND",
                    f"round {key.round} of {key.run_id} has no update",
                    resource=f"{RESOURCE}/{key.run_id}/{key.round}/{key.attempt}",
                )
            if row.closed_at is None:
                await store.close_round(connection, key, self._clock())
            return row.judged_at is not None, await _updates(connection, key)

    async def _case(self, key: store.RoundKey, updates: Sequence[Update]) -> Case:
        base = await self._runs.base_of(key.run_id, key.round)
        submissions = [
            Submission(
                update_id=update.update_id,
                data=await self._blobs.get(update.sha256),
                examples=base.examples.get(update.participant, 0),
            )
            for update in updates
        ]
        return Case(
            family=base.family,
            golden=base.data.golden,
            base=await self._blobs.get(base.params_sha256),
            submissions=tuple(submissions),
        )

    async def _settle(
        self,
        key: store.RoundKey,
        updates: Sequence[Update],
        ruling: Ruling,
        by: Call,
    ) -> list[Update]:
        async with self._database.transaction() as connection:
            row = await store.lock_round(connection, key)
            if row is not None and row.judged_at is not None:
                return await _updates(connection, key)
            now = self._clock()
            for judgement in ruling.judgements:
                await store.write_verdict(
                    connection,
                    judgement.update_id,
                    verdict=judgement.verdict.value,
                    score=judgement.score,
                    findings=rows(judgement.findings),
                    now=now,
                )
            await store.mark_judged(connection, key, now)
            settled = await _updates(connection, key)
            await self._audit.record_in(
                connection,
                *(
                    _verdict_entry(update, judgement, by)
                    for update, judgement in zip(updates, ruling.judgements, strict=True)
                ),
            )
            return settled


async def _updates(connection: Connection, key: store.RoundKey) -> list[Update]:
    return [update_of(row) for row in await store.of_round(connection, key)]


def _verdict_entry(update: Update, judgement: Judgement, by: Call) -> Entry:
    return Entry(
        kind=audit_pb2.AUDIT_KIND_REVIEW,
        actor=by.caller.subject,
        action="judge",
        resource=f"{RESOURCE}/{update.update_id}",
        outcome=judgement.verdict.value,
        reason=judgement.reason,
        policy_revision=by.grant.revision,
        rule_id=by.grant.rule_id,
        subject_id=update.update_id,
        details={
            **details(update.key, update.participant, update.sha256),
            "score": f"{judgement.score:.4f}",
        },
        evidence={"findings.json": encode(judgement.findings)},
    )
