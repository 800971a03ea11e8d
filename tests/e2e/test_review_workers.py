"""A run whose rounds are examined by processes of their own, one of which is killed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from aegis.channel import Identity, connect
from aegis.local import pki
from aegis.local.programs import server_environment
from aegis.v1 import review_pb2, review_pb2_grpc, training_pb2, training_pb2_grpc
from aegis_server.migrating import migrate
from tests.integration.training.conftest import small_plan
from tests.processes import Process

Run = training_pb2.Run
# No certificate, and no key but that of blobs.
WORKERS_ARE_TOLD = {"AEGIS_DATABASE_URL", "AEGIS_DATA_DIR", "AEGIS_BLOB_KEY", "AEGIS_PROFILE"}


@pytest.fixture
async def environment(
    tmp_path: Path, database_url: str, server_database_url: str
) -> dict[str, str]:
    """What a server and its workers are told."""
    await migrate(database_url)
    pki.ensure(tmp_path / "pki")
    (tmp_path / "blobs").mkdir()
    told = server_environment(
        tmp_path,
        database_url=server_database_url,
        redis_url=None,
        executor_address="127.0.0.1:1",
        witness_address="127.0.0.1:1",
    )
    return {
        **{name: value for name, value in told.items() if name.startswith("AEGIS_")},
        "AEGIS_LISTEN": "127.0.0.1:0",
        "AEGIS_TOKEN_LISTEN": "127.0.0.1:0",
        "AEGIS_REVIEW_WORKERS": "queue",
    }


@contextmanager
def process(folder: Path, environment: dict[str, str], *command: str) -> Iterator[Process]:
    """A program that is stopped at the end, if it still runs."""
    folder.mkdir(exist_ok=True)
    started = Process(folder, "aegis_server", *command, **environment)
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture
async def admin(tmp_path: Path, environment: dict[str, str]) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server that examines nothing itself."""
    with process(tmp_path / "server", environment) as server:
        async with connect(server.address, Identity.of("admin", tmp_path)) as channel:
            yield channel


async def test_run_is_reviewed_by_workers_though_one_is_killed(
    admin: grpc.aio.Channel, tmp_path: Path, environment: dict[str, str]
):
    """Every round gets its verdicts once, whoever gives them; the run does not notice."""
    training = training_pb2_grpc.TrainingServiceStub(admin)
    review = review_pb2_grpc.ReviewServiceStub(admin)
    told = {name: value for name, value in environment.items() if name in WORKERS_ARE_TOLD}
    with (
        process(tmp_path / "one", told, "review-worker") as one,
        process(tmp_path / "two", told, "review-worker"),
    ):
        request = training_pb2.StartRunRequest(
            request_id=str(uuid.uuid4()), plan=small_plan(rounds=4, review=True)
        )
        run = (await training.StartRun(request, timeout=30)).run
        killed = False
        async with asyncio.timeout(120):
            while run.state not in (Run.STATE_COMPLETED, Run.STATE_FAILED, Run.STATE_STOPPED):
                await asyncio.sleep(0.2)
                asked = training_pb2.GetRunRequest(run_id=run.run_id)
                run = (await training.GetRun(asked, timeout=10)).run
                if run.rounds_completed >= 1 and not killed:
                    queue = review_pb2.GetReviewQueueRequest()
                    assert (await review.GetReviewQueue(queue, timeout=10)).examiners == 4
                    one.kill()
                    killed = True
        assert killed
        assert run.state == Run.STATE_COMPLETED, run.reason
        listed = review_pb2.ListUpdatesRequest(run_id=run.run_id, page_size=1000)
        updates = (await review.ListUpdates(listed, timeout=10)).updates
        assert len(updates) == 4 * run.plan.participants
        assert review_pb2.Update.VERDICT_PENDING not in {each.verdict for each in updates}
