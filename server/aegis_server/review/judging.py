"""Judging: a round that was asked for gets its verdicts, here or at any other worker.

Whoever examines a round has a lease on its row, renewed while the process lives: when it dies,
another takes over. Verdicts are written once, under the row's lock, with their audit records, in
one transaction; nothing is held open meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from prometheus_client import CollectorRegistry, Gauge, Histogram

from aegis.errors import Unavailable
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis.v1 import audit_pb2
from aegis_server.objects.blobs import BlobStore
from aegis_server.review import store
from aegis_server.review.case import Judgement, Ruling, Verdict
from aegis_server.review.cases import Cases, Prepared
from aegis_server.review.desks import Desk, Desks, Examined
from aegis_server.review.findings import encode, rows
from aegis_server.review.holding.terms import Terms
from aegis_server.review.isolation import Examining, all_held, failed
from aegis_server.review.store import RoundKey, RoundRow
from aegis_server.review.updates import RESOURCE, Update, complete, details

log = logging.getLogger(__name__)

_LEASE_SECONDS = 15.0
_RENEW_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_COUNT_SECONDS = 5.0
# What a desk is given on top of the examining time, for reading its task.
_BYTES_A_SECOND = 20_000_000


class Metrics:
    """What Prometheus is told of the review."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "aegis_review_seconds",
            "Seconds at a desk, a round.",
            registry=registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 240),
        )
        self.queue = Gauge(
            "aegis_review_queue",
            "Rounds by state, of all servers.",
            ["state"],
            registry=registry,
            multiprocess_mode="livemax",
        )


class Judging:
    """Judges rounds that were asked for. `worker` is this process's name, unique among all."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        blobs: BlobStore,
        cases: Cases,
        desks: Desks,
        examining: Examining,
        terms: Terms,
        worker: str,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._blobs = blobs
        self._cases = cases
        self._desks = desks
        self._examining = examining
        self._terms = terms
        self._worker = worker
        self._metrics = metrics
        self._clock = clock

    async def judge(self, key: RoundKey) -> None:
        """Returns once the round is judged, by us or by whoever else has it.

        Raises what putting it together raises; then it is nobody's, and waits to be asked for.
        """
        while not await self._is_judged(key):
            async with self._desks.one() as desk:
                if await self._claimed(key):
                    await self._examine(key, desk)
                    return
            await asyncio.sleep(_LOOK_SECONDS)

    async def run(self) -> None:
        """Counts the queue for Prometheus, until cancelled."""
        while True:
            try:
                async with self._database.transaction() as connection:
                    found = await store.queue(connection)
            except Unavailable:
                log.debug("the queue cannot be counted now")
            else:
                for state in ("waiting", "examining", "held"):
                    self._metrics.queue.labels(state).set(sum(r.state == state for r in found))
            await asyncio.sleep(_COUNT_SECONDS)

    async def _is_judged(self, key: RoundKey) -> bool:
        async with self._database.transaction() as connection:
            return await store.state_of(connection, key) == "judged"

    async def _claimed(self, key: RoundKey) -> bool:
        async with self._database.transaction() as connection:
            return await store.claim(connection, key, worker=self._worker, seconds=_LEASE_SECONDS)

    async def _examine(self, key: RoundKey, desk: Desk) -> None:
        try:
            async with self._lease(key):
                updates = await self._pending(key)
                prepared = await self._cases.prepare(key, updates)
                with self._metrics.seconds.time():
                    examined = await self._examined(desk, prepared)
                evidence = {
                    update_id: await self._blobs.put(numbers)
                    for update_id, numbers in examined.numbers.items()
                }
                ruling = _whole(updates, examined.ruling, prepared)
                await self._settle(key, updates, ruling, prepared, evidence)
        except BaseException:
            with contextlib.suppress(Unavailable):
                async with self._database.transaction() as connection:
                    await store.let_go(connection, key, worker=self._worker)
            raise

    async def _pending(self, key: RoundKey) -> list[Update]:
        """Returns what there is to judge: what came unasked has its verdict."""
        async with self._database.transaction() as connection:
            found = await complete(connection, await store.of_round(connection, key))
        return [each for each in found if each.verdict is Verdict.PENDING]

    async def _examined(self, desk: Desk, prepared: Prepared) -> Examined:
        case = prepared.case
        if prepared.refused is not None:
            return all_held(case, prepared.refused)
        size = sum(len(each.data) for each in case.submissions)
        allowed = self._examining.seconds + size / _BYTES_A_SECOND
        return await replace(self._examining, seconds=allowed).examine(desk, case)

    @asynccontextmanager
    async def _lease(self, key: RoundKey) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(_RENEW_SECONDS)
                # Without a database nobody else can take the round either.
                with contextlib.suppress(Unavailable):
                    async with self._database.transaction() as connection:
                        await store.keep(
                            connection, key, worker=self._worker, seconds=_LEASE_SECONDS
                        )

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])

    async def _settle(
        self,
        key: RoundKey,
        updates: Sequence[Update],
        ruling: Ruling,
        prepared: Prepared,
        evidence: Mapping[str, bytes],
    ) -> None:
        async with self._database.transaction() as connection:
            row = await store.lock_round(connection, key)
            if row is None or row.judged_at is not None:
                return
            now = self._clock()
            for judgement in ruling.judgements:
                await self._write(connection, judgement, ruling, prepared, evidence, now)
            names = {update.update_id: update.participant for update in updates}
            await store.mark_judged(
                connection,
                key,
                fallback=ruling.fallback,
                fallback_participants=[names[each] for each in ruling.members],
                reason=ruling.why,
                warming_up=ruling.warming_up,
                now=now,
            )
            rooms = self._cases.rooms
            told: Sequence[Entry] = ()
            if rooms.memory is not None:
                told = await rooms.memory.remember(
                    connection, key, dataset=prepared.base.dataset, ruling=ruling, now=now
                )
            if rooms.detectors is not None:
                await rooms.detectors.note(connection, ruling)
            await self._audit.record_in(
                connection,
                *(
                    _entry(row, update, judgement, ruling, prepared, evidence)
                    for update, judgement in zip(updates, ruling.judgements, strict=True)
                ),
                *told,
            )

    async def _write(
        self,
        connection: Connection,
        judgement: Judgement,
        ruling: Ruling,
        prepared: Prepared,
        evidence: Mapping[str, bytes],
        now: datetime,
    ) -> None:
        held = judgement.verdict is Verdict.HELD
        await store.write_verdict(
            connection,
            judgement.update_id,
            verdict=judgement.verdict.value,
            score=judgement.score,
            findings=rows(judgement.findings),
            false_positive_rate=judgement.false_positive_rate,
            would_change=judgement.would_change,
            hold_until=now + timedelta(seconds=self._terms.seconds) if held else None,
            hold_default=self._terms.default_of(judgement.score).value if held else None,
            detector=ruling.detector,
            golden_sha256=prepared.golden_sha256,
            evidence_sha256=evidence.get(judgement.update_id, b""),
            now=now,
        )


def _whole(updates: Sequence[Update], ruling: Ruling, prepared: Prepared) -> Ruling:
    """Returns a judgement for every update of the round, those whose bytes are lost included."""
    judged = {each.update_id: each for each in ruling.judgements}
    judged |= {name: failed(name, [finding]) for name, finding in prepared.lost.items()}
    return replace(ruling, judgements=tuple(judged[each.update_id] for each in updates))


def _entry(
    row: RoundRow,
    update: Update,
    judgement: Judgement,
    ruling: Ruling,
    prepared: Prepared,
    evidence: Mapping[str, bytes],
) -> Entry:
    known = {
        "score": f"{judgement.score:.4f}",
        "detector": ruling.detector,
        "golden_sha256": prepared.golden_sha256.hex(),
        "evidence_sha256": evidence.get(update.update_id, b"").hex(),
        "fallback": "yes" if ruling.fallback else "",
    }
    return Entry(
        kind=audit_pb2.AUDIT_KIND_REVIEW,
        actor=row.asked_by,
        action="judge",
        resource=f"{RESOURCE}/{update.update_id}",
        outcome=judgement.verdict.value,
        reason=judgement.reason,
        policy_revision=row.policy_revision,
        rule_id=row.rule_id,
        subject_id=update.update_id,
        details={
            **details(update.key, update.participant, update.sha256),
            **{name: value for name, value in known.items() if value},
        },
        evidence={"findings.json": encode(judgement.findings)},
    )
