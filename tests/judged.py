"""Rounds that were judged, as the review room leaves them in the database."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aegis.serving.auditlog import Entry
from aegis.serving.database import Connection
from aegis_server.review import store
from aegis_server.review.case import Judgement, Ruling, Verdict
from aegis_server.review.findings import Finding, rows
from aegis_server.review.memory.store import remember
from aegis_server.review.standing.standings import Standings

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Judged:
    """How one update was judged."""

    verdict: Verdict = Verdict.ACCEPTED
    score: float = 0.1
    features: Mapping[str, float] = field(default_factory=dict)
    sketch: bytes = b""
    findings: tuple[Finding, ...] = ()


async def judge(
    connection: Connection,
    key: store.RoundKey,
    updates: Mapping[str, Judged],
    *,
    dataset: str = "digits",
    now: datetime = NOW,
) -> dict[str, str]:
    """Stores a round that was judged and remembered; returns update ids by participant."""
    ids, ruling = await _judged(connection, key, updates, now, enrolled=True)
    await remember(connection, key, dataset=dataset, ruling=ruling, now=now)
    return ids


async def reckoned(
    connection: Connection,
    key: store.RoundKey,
    updates: Mapping[str, Judged],
    standings: Standings,
    *,
    enrolled: bool = True,
    now: datetime = NOW,
) -> tuple[dict[str, str], list[Entry]]:
    """As `judge`, with its participants' standings; returns the audit records, too."""
    ids, ruling = await _judged(connection, key, updates, now, enrolled=enrolled)
    return ids, await standings.remember(connection, key, dataset="digits", ruling=ruling, now=now)


async def _judged(
    connection: Connection,
    key: store.RoundKey,
    updates: Mapping[str, Judged],
    now: datetime,
    *,
    enrolled: bool,
) -> tuple[dict[str, str], Ruling]:
    ids = {name: f"upd-{key.run_id}-{key.round}-{key.attempt}-{name}" for name in updates}
    await store.open_round(connection, key)
    for name, update_id in ids.items():
        await store.insert(
            connection,
            key,
            update_id=update_id,
            participant=name,
            enrolled=enrolled,
            sha256=hashlib.sha256(update_id.encode()).digest(),
            size_bytes=1,
            by="service:coordinator",
            now=now,
        )
    await store.close_round(
        connection, key, by="service:coordinator", policy_revision=1, rule_id="r", now=now
    )
    judgements = [
        Judgement(
            ids[name],
            each.verdict,
            each.score,
            each.findings,
            features=each.features,
            sketch=each.sketch,
        )
        for name, each in updates.items()
    ]
    for each in judgements:
        await store.write_verdict(
            connection,
            each.update_id,
            verdict=each.verdict.value,
            score=each.score,
            findings=rows(each.findings),
            false_positive_rate=0.5,
            would_change=(),
            hold_until=now if each.verdict is Verdict.HELD else None,
            hold_default="rejected" if each.verdict is Verdict.HELD else None,
            detector="",
            golden_sha256=b"",
            evidence_sha256=b"",
            now=now,
        )
    await store.mark_judged(
        connection,
        key,
        fallback=False,
        fallback_participants=(),
        reason="",
        warming_up=False,
        now=now,
    )
    return ids, Ruling(tuple(judgements))
