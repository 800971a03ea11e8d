"""Judging: a round that was asked for gets its verdicts, here or at any other worker.

Whoever examines a round has a lease on its row, renewed while the process lives: when it dies,
another takes over. Nothing is held open meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from prometheus_client import CollectorRegistry, Gauge, Histogram

from aegis.errors import Unavailable
from aegis.serving.database import Database
from aegis_server.objects.blobs import BlobStore
from aegis_server.review import store
from aegis_server.review.case import Verdict
from aegis_server.review.cases import Cases, Prepared
from aegis_server.review.desks import Desk, Desks, Examined
from aegis_server.review.isolation import Examining, all_held
from aegis_server.review.queue import store as queue
from aegis_server.review.settling import Settling
from aegis_server.review.store import RoundKey
from aegis_server.review.updates import Update, complete

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
        blobs: BlobStore,
        cases: Cases,
        desks: Desks,
        examining: Examining,
        settling: Settling,
        worker: str,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._cases = cases
        self._desks = desks
        self._examining = examining
        self._settling = settling
        self._worker = worker
        self._metrics = metrics

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
                    found = await queue.rounds(connection)
            except Unavailable:
                log.debug("the queue cannot be counted now")
            else:
                for state in ("waiting", "examining", "held"):
                    self._metrics.queue.labels(state).set(sum(r.state == state for r in found))
            await asyncio.sleep(_COUNT_SECONDS)

    async def _is_judged(self, key: RoundKey) -> bool:
        async with self._database.transaction() as connection:
            return await queue.state_of(connection, key) == "judged"

    async def _claimed(self, key: RoundKey) -> bool:
        async with self._database.transaction() as connection:
            return await queue.claim(connection, key, worker=self._worker, seconds=_LEASE_SECONDS)

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
                await self._settling.settle(key, updates, examined.ruling, prepared, evidence)
        except BaseException:
            with contextlib.suppress(Unavailable):
                async with self._database.transaction() as connection:
                    await queue.let_go(connection, key, worker=self._worker)
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
                        await queue.keep(
                            connection, key, worker=self._worker, seconds=_LEASE_SECONDS
                        )

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])
