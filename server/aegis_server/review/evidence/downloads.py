"""Bundles: drawn and signed when somebody first asks, and the same bytes ever after.

Most evidence is never looked at, so a verdict costs numbers only. The first request draws in a
worker process, signs, stores the bundle as a blob, and writes its row with an audit record of what
was signed; of two servers that do so at once, the first one's stands. That somebody read it is
recorded at the door, with the permission, like every read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

from aegis.algorithms import PrivateKey
from aegis.errors import DataLoss, FailedPrecondition, NotFound, Unavailable
from aegis.evidence.manifest import Manifest
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Database
from aegis.serving.doors import Call
from aegis.v1 import audit_pb2
from aegis_learning.rows import Split
from aegis_server.objects.blobs import BlobStore
from aegis_server.review.evidence import store
from aegis_server.review.evidence.bundle import Draft, ExplainMissing, drawn, sealed
from aegis_server.review.evidence.words import Words
from aegis_server.review.updates import RESOURCE, Base, RunLookup
from aegis_server.workers import Workers

Draw: TypeAlias = Callable[[Draft], Mapping[str, bytes]]

_DRAW_SECONDS = 120.0


class Golden(Protocol):
    """Knows which golden rows are in use."""

    async def active(self, dataset: str) -> tuple[Split, bytes] | None:
        """Returns the rows and their SHA-256; None where those of the data set are."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle's digest and bytes."""

    sha256: bytes
    data: bytes


class Bundles:
    """Makes bundles and finds them again. Without a `key` it only finds them."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        blobs: BlobStore,
        runs: RunLookup,
        workers: Workers,
        clock: Callable[[], datetime],
        key: PrivateKey | None,
        golden: Golden | None = None,
        draw: Draw = drawn,
    ) -> None:
        self._database = database
        self._audit = audit
        self._blobs = blobs
        self._runs = runs
        self._workers = workers
        self._clock = clock
        self._key = key
        self._golden = golden
        self._draw = draw
        # One at a time: whoever wants many bundles must not keep rounds waiting for a worker.
        self._drawing = asyncio.Lock()

    async def get(self, update_id: str, by: Call) -> Bundle:
        """Returns the bundle of a judged update.

        Raises `NotFound`; `FailedPrecondition` (STATE_CONFLICT while it is PENDING,
        EVIDENCE_UNAVAILABLE); `DataLoss` (DATA_DAMAGED).
        """
        row = await self._find(update_id)
        if row.bundle_sha256 is None:
            async with self._drawing:
                row = await self._find(update_id)
                if row.bundle_sha256 is None:
                    row = await self._make(row, by)
        if row.bundle_sha256 is None:
            raise RuntimeError(f"the bundle of {update_id} vanished after it was made")
        return Bundle(row.bundle_sha256, await self._blobs.get(row.bundle_sha256))

    async def _find(self, update_id: str) -> store.JudgedRow:
        async with self._database.transaction() as connection:
            row = await store.find(connection, update_id)
        if row is None:
            raise _nothing(update_id, f"there is no update {update_id}")
        if row.reviewed_at is None:
            raise FailedPrecondition(
                "STATE_CONFLICT",
                f"{update_id} was not judged yet: its round is still open, or being examined",
                resource=f"{RESOURCE}/{update_id}",
                state="PENDING",
            )
        if not row.evidence_sha256:
            text = f"{update_id} was judged without evidence: its findings are all there is"
            raise _nothing(update_id, text)
        return row

    async def _make(self, row: store.JudgedRow, by: Call) -> store.JudgedRow:
        if self._key is None:
            raise _unavailable("AEGIS_EVIDENCE_KEY", "it has no key: set AEGIS_EVIDENCE_KEY")
        now = self._clock()
        draft = await self._draft(row, now)
        try:
            async with asyncio.timeout(_DRAW_SECONDS):
                files = await self._workers.run(self._draw, draft)
        except TimeoutError as error:
            text = f"the evidence of {row.update_id} could not be drawn in time"
            raise Unavailable("REVIEW_BUSY", text, run_id=row.run_id, round=row.round) from error
        except ExplainMissing as error:
            text = f"it lacks {error}: install aegis-control-plane[explain]"
            raise _unavailable(str(error), text) from error
        data = await asyncio.to_thread(sealed, files, draft.about, self._key)
        # Before the row: a row must never name bytes that are not there.
        sha256 = await self._blobs.put(data)
        async with self._database.transaction() as connection:
            if await store.keep(
                connection, row.update_id, sha256=sha256, size_bytes=len(data), now=now
            ):
                await self._audit.record_in(connection, _signed(row, sha256, by))
        return await self._find(row.update_id)

    async def _draft(self, row: store.JudgedRow, now: datetime) -> Draft:
        base = await self._runs.base_of(row.run_id, row.round)
        evidence = await self._blobs.get(row.evidence_sha256)
        if row.reviewed_at is None:
            raise RuntimeError(f"{row.update_id} has evidence and was never judged")
        about = Manifest(
            update_id=row.update_id,
            update_sha256=row.sha256,
            run_id=row.run_id,
            round=row.round,
            attempt=row.attempt,
            participant=row.participant,
            # The row's may be a person's by now.
            verdict=_verdict(evidence, row.evidence_sha256),
            review_time=row.reviewed_at,
            create_time=now,
            evidence_sha256=row.evidence_sha256,
            files={},
        )
        return Draft(
            about=about,
            evidence=evidence,
            words=Words.of(base.data.schema),
            family=base.family,
            base=await self._blobs.get(base.params_sha256),
            update=await self._blobs.get(row.sha256),
            golden=await self._golden_rows(base, row.golden_sha256),
        )

    async def _golden_rows(self, base: Base, sha256: bytes) -> Split:
        """Returns the rows of the review where they are still in use, else those of the data."""
        found = await self._golden.active(base.data.name) if self._golden else None
        return found[0] if found is not None and found[1] == sha256 else base.data.golden


def _verdict(evidence: bytes, sha256: bytes) -> str:
    try:
        return str(json.loads(evidence)["judgement"]["verdict"])
    except (KeyError, TypeError, ValueError) as error:
        text = f"blob {sha256.hex()} is no evidence"
        raise DataLoss("DATA_DAMAGED", text, sha256=sha256.hex()) from error


def _nothing(update_id: str, text: str) -> NotFound:
    return NotFound("RESOURCE_NOT_FOUND", text, resource=f"{RESOURCE}/{update_id}")


def _unavailable(lacks: str, text: str) -> FailedPrecondition:
    return FailedPrecondition(
        "EVIDENCE_UNAVAILABLE", f"this server makes no evidence bundles: {text}", lacks=lacks
    )


def _signed(row: store.JudgedRow, sha256: bytes, by: Call) -> Entry:
    return Entry(
        kind=audit_pb2.AUDIT_KIND_REVIEW,
        actor=by.caller.subject,
        action="sign_evidence",
        resource=f"{RESOURCE}/{row.update_id}",
        outcome="signed",
        policy_revision=by.grant.revision,
        rule_id=by.grant.rule_id,
        subject_id=row.update_id,
        details={"evidence_sha256": row.evidence_sha256.hex(), "bundle_sha256": sha256.hex()},
    )
