"""`aegis-server review-worker`: examines rounds for servers whose AEGIS_REVIEW_WORKERS is `queue`.

It serves nobody and signs nothing: it takes jobs from Postgres, reads updates from where blobs are,
and writes verdicts with their audit records, as a server would. So it is told where those two are
and what opens them, and no key or certificate of a server has to be on its machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server

from aegis.secretfiles import text_of
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.program import announce, run_until_stopped
from aegis_server.app import LOG_ID
from aegis_server.foundation import blobs_of, utc_now
from aegis_server.participants.datasets.catalogue import Datasets
from aegis_server.review.queue.jobs import Jobs, Worker, opened
from aegis_server.reviewing import Ground, desks_of, judging_of, standings_of, worker_name
from aegis_server.settings import ReviewSettings, SettingsError, StorageSettings
from aegis_server.training.progress import Progress
from aegis_server.training.states import Changes
from aegis_server.workers import Workers


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """All that a worker can be told, from the variables a server has, too."""

    database_url: str = field(repr=False)
    storage: StorageSettings
    review: ReviewSettings
    metrics_listen: str | None
    development: bool
    ready_file: Path | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> WorkerSettings:
        """Reads the variables; raises `SettingsError` naming all that are wrong."""
        missing: list[str] = []
        database_url = ""
        try:
            database_url = text_of(environment, "AEGIS_DATABASE_URL") or ""
        except ValueError as error:
            missing.append(str(error))
        if not database_url and not missing:
            missing.append("AEGIS_DATABASE_URL")
        if not environment.get("AEGIS_BLOBS") and not environment.get("AEGIS_DATA_DIR"):
            missing.append("AEGIS_BLOBS (or AEGIS_DATA_DIR is needed)")
        metrics = environment.get("AEGIS_METRICS_LISTEN") or None
        if metrics is not None and re.fullmatch(r"\S+:\d{1,5}", metrics) is None:
            missing.append(f"AEGIS_METRICS_LISTEN ({metrics!r} is not host:port)")
        ready = environment.get("AEGIS_READY_FILE")
        settings = cls(
            database_url=database_url,
            storage=StorageSettings.read(environment, missing),
            review=ReviewSettings.read(environment, missing),
            metrics_listen=metrics,
            development=environment.get("AEGIS_PROFILE") == "development",
            ready_file=Path(ready) if ready else None,
        )
        if missing:
            raise SettingsError("missing or wrong settings: " + ", ".join(missing))
        return settings


async def work(settings: WorkerSettings, *, registry: CollectorRegistry = REGISTRY) -> None:
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
            review=settings.review,
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
        desks = desks_of(1, stack)
        standings, _ = standings_of(ground)
        judging = judging_of(ground, desks, standings)
        app = await stack.enter_async_context(opened(settings.database_url, listeners=desks.count))
        worker = Worker(app, Jobs(app, database), judging, desks=desks.count)
        if settings.metrics_listen is not None:
            host, _, port = settings.metrics_listen.rpartition(":")
            start_http_server(int(port), host, registry=registry)
        announce(settings.ready_file, worker_name())
        await run_until_stopped(audit.run(), judging.run(), worker.run())
