"""Settling: the verdicts of an examined round are written, once, by whoever comes first.

Under the round's lock, in one transaction with their audit records and with what is remembered of
them; a worker that was thought dead and comes late changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis.v1 import audit_pb2
from aegis_server.review import store
from aegis_server.review.case import Judgement, Ruling, Verdict
from aegis_server.review.cases import Prepared, Rooms
from aegis_server.review.findings import encode, rows
from aegis_server.review.holding.terms import Terms
from aegis_server.review.isolation import failed
from aegis_server.review.store import RoundKey, RoundRow
from aegis_server.review.updates import RESOURCE, Update, details


class Settling:
    """Writes the verdicts of rounds."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        rooms: Rooms,
        terms: Terms,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._rooms = rooms
        self._terms = terms
        self._clock = clock

    async def settle(
        self,
        key: RoundKey,
        updates: Sequence[Update],
        ruling: Ruling,
        prepared: Prepared,
        evidence: Mapping[str, bytes],
    ) -> None:
        """Writes what was ruled about a round's updates, unless somebody has."""
        ruling = _whole(updates, ruling, prepared)
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
            told: Sequence[Entry] = ()
            if self._rooms.memory is not None:
                told = await self._rooms.memory.remember(
                    connection, key, dataset=prepared.base.dataset, ruling=ruling, now=now
                )
            if self._rooms.detectors is not None:
                await self._rooms.detectors.note(connection, ruling)
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
