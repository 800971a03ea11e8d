"""`aegis-server review-worker`: examines rounds for servers whose AEGIS_REVIEW_WORKERS is `queue`.

It has the settings of a server and serves nobody: it takes jobs from Postgres, reads updates from
where blobs are, and writes verdicts with their audit records, as a server would.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server

from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.program import announce, run_until_stopped
from aegis_server.app import LOG_ID
from aegis_server.foundation import blobs_of, utc_now
from aegis_server.participants.datasets.catalogue import Datasets
from aegis_server.review.queue.jobs import Jobs, Worker, opened
from aegis_server.reviewing import Ground, desks_of, judging_of, standings_of, worker_name
from aegis_server.settings import Settings
from aegis_server.training.progress import Progress
from aegis_server.training.states import Changes
from aegis_server.workers import Workers


async def work(settings: Settings, *, registry: CollectorRegistry = REGISTRY) -> None:
    """Works until SIGTERM or SIGINT."""
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url, application="aegis-review-worker")
        stack.push_async_callback(database.close)
        await database.open()
        audit = AuditLog(database, log_id=LOG_ID, clock=utc_now)
        await audit.catch_up()
        blobs, workers = blobs_of(settings.storage), Workers(1)
        stack.callback(workers.close)
        datasets = Datasets(database, audit, blobs, workers, clock=utc_now)
        ground = Ground(
            settings=settings,
            database=database,
            audit=audit,
            blobs=blobs,
            runs=Progress(
                database, audit, blobs, clock=utc_now, changes=Changes(), find=datasets.find
            ),
            datasets=datasets,
            clock=utc_now,
            registry=registry,
        )
        desks = desks_of(settings, stack)
        standings, _ = standings_of(ground)
        judging = judging_of(ground, desks, standings)
        app = await stack.enter_async_context(opened(settings.database_url, listeners=desks.count))
        worker = Worker(app, Jobs(app, database), judging, desks=desks.count)
        if settings.metrics_listen is not None:
            host, _, port = settings.metrics_listen.rpartition(":")
            start_http_server(int(port), host, registry=registry)
        announce(settings.ready_file, worker_name())
        await run_until_stopped(audit.run(), judging.run(), worker.run())
