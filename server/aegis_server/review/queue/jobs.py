"""The queue that all servers share: jobs of procrastinate, in our own Postgres.

What has to be done stands in aegis.review_round; a job only wakes a worker for it. So a job that is
lost, doubled or late does no harm: whoever waits puts a round that nobody examines in line again,
the round's lease lets one worker have it, and its row lock lets one verdict be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Status

from aegis.errors import Unavailable
from aegis.serving.database import ALIVE, Database
from aegis_server.review.judging import Judging
from aegis_server.review.queue import store
from aegis_server.review.store import RoundKey

log = logging.getLogger(__name__)

QUEUE = "review"
TASK = "aegis.review.judge"

_LOOK_SECONDS = 0.5
# A job that failed is not put in line again at once.
_AGAIN_SECONDS = 5.0
_CONNECTIONS = 4


@asynccontextmanager
async def opened(database_url: str, *, listeners: int = 0) -> AsyncIterator[App]:
    """Yields procrastinate on our database, in our schema, with a connection for each listener."""
    connector = PsycopgConnector(
        conninfo=database_url,
        min_size=1,
        max_size=_CONNECTIONS + listeners,
        kwargs={
            **ALIVE,
            "application_name": "aegis-review-queue",
            "options": "-c search_path=aegis -c timezone=UTC",
        },
    )
    async with App(connector=connector).open_async() as app:
        yield app


class Jobs:
    """Has rounds judged by workers."""

    def __init__(self, app: App, database: Database) -> None:
        self._app = app
        self._database = database

    async def examiners(self) -> int:
        """Returns how many rounds all workers examine at the same time."""
        async with self._database.transaction() as connection:
            return await store.live_workers(connection)

    async def judged(self, key: RoundKey) -> None:
        """See `rounds.Queue`."""
        loop = asyncio.get_running_loop()
        again = 0.0
        while True:
            async with self._database.transaction() as connection:
                state = await store.state_of(connection, key)
            if state == "judged":
                return
            if state == "waiting" and loop.time() >= again:
                await self.put(key)
                again = loop.time() + _AGAIN_SECONDS
            await asyncio.sleep(_LOOK_SECONDS)

    async def put(self, key: RoundKey) -> None:
        """Puts a round in line, unless it is there; raises `Unavailable`."""
        name = f"{key.run_id}/{key.round}/{key.attempt}"
        task = self._app.configure_task(TASK, allow_unknown=True, queue=QUEUE, queueing_lock=name)
        with contextlib.suppress(AlreadyEnqueued):
            try:
                await task.defer_async(run_id=key.run_id, round=key.round, attempt=key.attempt)
            except ConnectorException as error:
                raise Unavailable(
                    "DATABASE_UNAVAILABLE", "the database cannot be reached"
                ) from error

    async def sweep(self) -> None:
        """Puts every round in line that waits, and forgets jobs whose worker died."""
        async with self._database.transaction() as connection:
            rows = await store.rounds(connection)
        for row in rows:
            if row.state == "waiting":
                await self.put(RoundKey(row.run_id, row.round, row.attempt))
        for job in await self._app.job_manager.get_stalled_jobs(queue=QUEUE):
            await self._app.job_manager.finish_job(job, Status.FAILED, delete_job=True)


class Worker:
    """Takes jobs and judges: as many at once as there are desks."""

    def __init__(self, app: App, jobs: Jobs, judging: Judging, *, desks: int) -> None:
        self._app = app
        self._jobs = jobs
        self._desks = desks

        @app.task(name=TASK, queue=QUEUE)
        async def judge(run_id: str, round: int, attempt: int) -> None:  # noqa: A002
            await judging.judge(RoundKey(run_id, round, attempt))

    async def run(self) -> None:
        """Works until cancelled; what is in hand then waits for another worker."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sweep())
            # A worker of procrastinate for each desk, so that counting them counts desks.
            for _ in range(self._desks):
                group.create_task(self._work())

    async def _work(self) -> None:
        # It ends by itself when the database is away for a moment.
        while True:
            with contextlib.suppress(ConnectorException):
                await self._app.run_worker_async(
                    queues=[QUEUE],
                    concurrency=1,
                    install_signal_handlers=False,
                    delete_jobs="always",
                    fetch_job_polling_interval=_AGAIN_SECONDS,
                    shutdown_graceful_timeout=0.0,
                )
            await asyncio.sleep(_LOOK_SECONDS)

    async def _sweep(self) -> None:
        while True:
            try:
                await self._jobs.sweep()
            except (Unavailable, ConnectorException) as error:
                log.warning("the queue cannot be looked through: %s", error)
            await asyncio.sleep(_AGAIN_SECONDS)
