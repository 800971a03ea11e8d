"""Trains the detectors that somebody asked for, one at a time over all servers.

A job is a row. Who works on it holds an advisory lock in a transaction that stays open meanwhile:
when this server dies, Postgres gives the lock back at once and another server, or this one when it
is back, begins with the job anew. A job that keeps ending so is given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from aegis.errors import AegisError
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis_server.objects.blobs import BlobStore
from aegis_server.review.detection import Recorded
from aegis_server.review.detectors import lessons, store
from aegis_server.review.detectors.aside import Died, Failed, aside
from aegis_server.review.detectors.lessons import Exam, Learnt, Lesson
from aegis_server.review.detectors.records import SERVER, Measured, entry, rows
from aegis_server.review.detectors.store import StoredDetector

log = logging.getLogger(__name__)

_SCAN_SECONDS = 2.0
_AGAIN_SECONDS = 15.0
_ATTEMPTS_MAX = 5
# What learning is of the whole; the rest is examining.
_LEARNT = 0.2


@dataclass(frozen=True, slots=True)
class School:
    """What is done in a process of its own, so it has to be importable by name; `seeds` is not."""

    learn: Callable[[Lesson], Learnt] = lessons.learn
    examine: Callable[[Exam], list[Measured]] = lessons.examine
    seeds: Callable[[int], list[int]] = lessons.seeds


class Jobs:
    """Does the jobs. Run `run()` as a task."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        blobs: BlobStore,
        *,
        school: School = School(),
        scan_seconds: float = _SCAN_SECONDS,
    ) -> None:
        self._database = database
        self._audit = audit
        self._blobs = blobs
        self._school = school
        self._scan_seconds = scan_seconds

    async def run(self) -> None:
        """Does jobs until cancelled; the one in hand is taken up again later."""
        while True:
            pause = self._scan_seconds
            try:
                while await self._next():
                    pass
            except (AegisError, OSError) as error:
                # The job stays: later, here or at another server, it is begun with anew.
                log.warning("no detector can be trained: %s", error)
                pause = _AGAIN_SECONDS
            await asyncio.sleep(pause)

    async def _next(self) -> bool:
        """Does the oldest job, if there is one and nobody is at one; says whether it did."""
        async with self._database.transaction() as claim:
            if not await store.claim_training(claim):
                return False
            async with self._database.transaction() as connection:
                job = await store.begin_attempt(connection)
            if job is None:
                return False
            if job.attempts > _ATTEMPTS_MAX:
                await self._fail(
                    job,
                    f"{_ATTEMPTS_MAX} times its process or its server ended in the middle of it",
                )
                return True
            try:
                await self._do(job, claim)
            except (AegisError, OSError):
                with suppress(AegisError):
                    async with self._database.transaction() as connection:
                        await store.give_attempt_back(connection, job.version)
                raise
            return True

    async def _do(self, job: StoredDetector, claim: Connection) -> None:
        async with self._database.transaction() as connection:
            found = await lessons.recorded_of(connection, job.dataset)
        short = lessons.shortage(found)
        if short is not None:
            await self._fail(job, str(short))
            return
        try:
            learnt, measured = await self._taught(job, tuple(found), claim)
        except Failed as error:
            await self._fail(job, str(error))
            return
        except Died as error:
            log.warning("detector %s: %s; it is begun with anew", job.version, error)
            return
        sha256 = await self._blobs.put(learnt.file)
        async with self._database.transaction() as connection:
            counts = (learnt.updates, learnt.rounds, learnt.participants)
            if await store.finish_training(
                connection, job.version, sha256=sha256, counts=counts, measured=rows(measured)
            ):
                await self._record(connection, job.version, "trained")
        log.info("detector %s is trained", job.version)

    async def _taught(
        self, job: StoredDetector, found: tuple[Recorded, ...], claim: Connection
    ) -> tuple[Learnt, list[Measured]]:
        lesson = Lesson(job.version, found, job.target_fpr, job.seed)
        learnt = await aside(self._school.learn, lesson)
        await self._progress(job, _LEARNT, claim)
        exams, seeds = [], self._school.seeds(job.seed)
        for number, seed in enumerate(seeds, start=1):
            exams.append(await aside(self._school.examine, Exam(learnt.file, seed)))
            done = _LEARNT + (1 - _LEARNT) * number / (len(seeds) + 1)
            await self._progress(job, done, claim)
        return learnt, [*lessons.combined(exams), learnt.held_back]

    async def _progress(self, job: StoredDetector, progress: float, claim: Connection) -> None:
        # Whoever holds the claim by now works on the same job: leave it to them.
        await store.still_claimed(claim)
        async with self._database.transaction() as connection:
            await store.set_progress(connection, job.version, progress)

    async def _fail(self, job: StoredDetector, reason: str) -> None:
        async with self._database.transaction() as connection:
            if await store.fail_training(connection, job.version, reason):
                await self._record(connection, job.version, "failed", reason)
        log.warning("detector %s could not be trained: %s", job.version, reason)

    async def _record(
        self, connection: Connection, version: str, outcome: str, reason: str = ""
    ) -> None:
        stored = await store.find(connection, version)
        if stored is None:
            raise RuntimeError(f"detector {version} vanished inside its own transaction")
        details = {"reason": reason} if reason else {}
        told = entry(stored, actor=SERVER, action="train", outcome=outcome, details=details)
        await self._audit.record_in(connection, told)
